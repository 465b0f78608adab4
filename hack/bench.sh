#!/usr/bin/env bash
# Figures for docs/benchmarks.md: writes, idle writes, memory, time. IDLE sets the idle window in seconds.
. "$(dirname "$0")/lib.sh"
BED=bench
build_testbed
finish() { local code=$?; [ $code = 0 ] || diagnose "$BED" >&2; [ -n "${KEEP_BED:-}" ] || testbed --name "$BED" down; exit $code; }
trap finish EXIT
{
  testbed --name "$BED" up --nodes kubelet:3
  load_images "$BED"
  install_chart "$BED"
} >&2
MULTIGRES_STORY_KUBECONFIG=$(testbed --name "$BED" kubeconfig)
MULTIGRES_STORY_AUDIT_LOG=$(dirname "$MULTIGRES_STORY_KUBECONFIG")/audit.log
export MULTIGRES_STORY_KUBECONFIG MULTIGRES_STORY_AUDIT_LOG
printf '## %s, %s cores, %s, data plane: %s\n\n' "$(git rev-parse --short HEAD)" "$(nproc)" "$(date -u +%F)" "$DATA_PLANE"
story bench --idle "${IDLE:-300}" samples/minimal.yaml samples/demo-multi-az-shared-volume.yaml
printf 'Image archive of the controller, compressed: %s bytes\n' "$(gzip -c "$(cat "$CACHE/controller-image")" | wc -c)"
