#!/usr/bin/env bash
# Opens the ports of the evaluation stack until it is interrupted.
. "$(dirname "$0")/lib.sh"
command -v kubectl > /dev/null || { echo "kubectl is not installed" >&2; exit 1; }
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
for port in grafana:3000 prometheus:9090 tempo:3200; do
  kubectl --context "kind-${KIND_CLUSTER:-multigres}" --namespace multigres-operator port-forward "service/${port%:*}" "${port#*:}" &
  echo "${port%:*}: http://localhost:${port#*:}"
done
wait -n
echo "a port-forward ended" >&2
exit 1
