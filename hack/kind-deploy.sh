#!/usr/bin/env bash
# Builds the controller's image, loads it into a kind cluster and installs the chart. Needs Docker, kind and helm.
. "$(dirname "$0")/lib.sh"
for tool in docker kind helm kubectl; do
  command -v "$tool" > /dev/null || { echo "$tool is not installed; \`make demo\` needs none of Docker, kind, helm and kubectl" >&2; exit 1; }
done
CLUSTER=${KIND_CLUSTER:-multigres}
kind get clusters | grep -qx "$CLUSTER" || kind create cluster --name "$CLUSTER"
docker build -f Dockerfile.controller -t "$CONTROLLER_IMAGE" .
kind load docker-image --name "$CLUSTER" "$CONTROLLER_IMAGE"
helm upgrade --install multigres-operator charts/multigres-operator --namespace multigres-operator --create-namespace --wait \
  --kube-context "kind-$CLUSTER" --set controller.image.registry=localhost \
  --set controller.image.repository=multigres-operator-controller --set controller.image.tag=dev
echo "Next: kubectl --context kind-$CLUSTER create namespace demo && kubectl --context kind-$CLUSTER -n demo apply -f samples/minimal.yaml"
