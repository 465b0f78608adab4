#!/usr/bin/env bash
# Installs the Debian packages that building and the testbed need and that are missing. Go and Rust must be there already.
set -euo pipefail

packages=(
  runc containernetworking-plugins iptables conntrack socat ethtool iproute2 util-linux # nodes of the testbed
  busybox-static gcc libc6-dev mmdebstrap ca-certificates                             # images of the testbed
  mold protobuf-compiler libprotobuf-dev cmake                                        # building Rust
  openssl
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done

if ((${#missing[@]} > 0)); then
  as_root=()
  ((EUID == 0)) || as_root=(sudo)
  echo "installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
fi

for program in go cargo; do
  command -v "$program" >/dev/null || { echo "$program is not on PATH; install Go 1.26 or newer and Rust by rustup" >&2; exit 1; }
done
echo "everything is there"
