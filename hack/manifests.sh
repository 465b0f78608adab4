#!/usr/bin/env bash
# Renders the chart for installs without Helm: install.yaml, install-certmanager.yaml, install-no-webhook.yaml for Kubernetes 1.25,
# install-observability.yaml with the evaluation stack of monitoring/overlay, and install-extras.yaml with what newer servers can do in addition. `manifests.sh [FOLDER]`; dist/ by default.
. "$(dirname "$0")/lib.sh"
if ! command -v helm > /dev/null; then
  build_testbed
  PATH="$(testbed tools helm | tail -1):$PATH"
fi
OUT=${1:-dist}
NAMESPACE=multigres-operator
mkdir -p "$OUT"

render() { # Kubernetes version, further arguments of helm
  local version=$1; shift
  # CRDs of a plain install are deleted with it, on purpose or not at all: the keep policy is Helm's alone.
  helm template multigres-operator charts/multigres-operator --namespace "$NAMESPACE" --no-hooks --kube-version "$version" \
    --set crds.keep=false "$@"
}

bundle() { # file, what it is, further arguments of helm
  local file=$OUT/$1 what=$2; shift 2
  {
    printf '# The Multigres Operator: %s. Rendered from the chart for Kubernetes 1.25 and newer.\n' "$what"
    printf -- '---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  labels:\n    app.kubernetes.io/name: multigres-operator\n' "$NAMESPACE"
    render 1.25.0 "$@"
  } > "$file"
  printf '%s  %s bytes\n' "$file" "$(wc -c < "$file")"
}

bundle install.yaml "admission with certificates of its own"
bundle install-certmanager.yaml "admission with certificates of cert-manager, which has to be there already" \
  --set certificates.mode=cert-manager --api-versions cert-manager.io/v1
bundle install-no-webhook.yaml "without admission" --set admission.enabled=false
bundle install-observability.yaml "with Prometheus, a collector, Tempo and Grafana; the Prometheus Operator has to be there already" \
  --values monitoring/overlay/values.yaml --api-versions monitoring.coreos.com/v1
for part in collector prometheus tempo grafana; do
  { echo "---"; cat "monitoring/overlay/$part.yaml"; } >> "$OUT/install-observability.yaml"
done

# Every object that is different, or only there, on a newer server.
extras=$OUT/install-extras.yaml
{
  echo "# Additions for Kubernetes 1.30 and newer; apply them after install.yaml or install-certmanager.yaml."
  awk 'BEGIN { RS = "(^|\n)---\n" } NR == FNR { old[$0]; next } !($0 in old) && NF { print "---"; print }' \
    <(render 1.25.0) <(render 1.30.0)
} > "$extras"
printf '%s  %s bytes\n' "$extras" "$(wc -c < "$extras")"
