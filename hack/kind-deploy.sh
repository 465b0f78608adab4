#!/usr/bin/env bash
# Builds the operator's images, loads them into a kind cluster and installs the chart. Needs Docker, kind and helm.
# `kind-deploy.sh [self-signed|cert-manager|no-webhook|observability]`: the same values as the install*.yaml of hack/manifests.sh.
. "$(dirname "$0")/lib.sh"
CERT_MANAGER=${CERT_MANAGER_VERSION:-v1.17.2}
PROMETHEUS_OPERATOR=${PROMETHEUS_OPERATOR_VERSION:-v0.85.0}
case "${1:-self-signed}" in
  self-signed) VALUES=() ;;
  cert-manager) VALUES=(--set certificates.mode=cert-manager) ;;
  no-webhook) VALUES=(--set admission.enabled=false) ;;
  observability) VALUES=(--values monitoring/overlay/values.yaml) ;;
  *) echo "usage: kind-deploy.sh [self-signed|cert-manager|no-webhook|observability]" >&2; exit 2 ;;
esac
for tool in docker kind helm kubectl; do
  command -v "$tool" > /dev/null || { echo "$tool is not installed; \`make demo\` needs none of Docker, kind, helm and kubectl" >&2; exit 1; }
done
CLUSTER=${KIND_CLUSTER:-multigres}
k() { kubectl --context "kind-$CLUSTER" "$@"; }
kind get clusters | grep -qx "$CLUSTER" || kind create cluster --name "$CLUSTER"
docker build -f Dockerfile.controller --build-arg GIT_REVISION="$GIT_REVISION" -t "$CONTROLLER_IMAGE" .
kind load docker-image --name "$CLUSTER" "$CONTROLLER_IMAGE"
if [ "${1:-}" != no-webhook ]; then
  docker build -f Dockerfile.admission --build-arg GIT_REVISION="$GIT_REVISION" -t "$ADMISSION_IMAGE" .
  kind load docker-image --name "$CLUSTER" "$ADMISSION_IMAGE"
fi
if [ "${1:-}" = cert-manager ]; then
  step "installing cert-manager $CERT_MANAGER"
  k apply -f "https://github.com/cert-manager/cert-manager/releases/download/$CERT_MANAGER/cert-manager.yaml"
  k wait --for=condition=Available deployment --all --namespace cert-manager --timeout=180s
fi
if [ "${1:-}" = observability ]; then
  step "installing the Prometheus Operator $PROMETHEUS_OPERATOR"
  k apply --server-side -f "https://github.com/prometheus-operator/prometheus-operator/releases/download/$PROMETHEUS_OPERATOR/bundle.yaml"
  k wait --for=condition=Available deployment/prometheus-operator --namespace default --timeout=180s
fi
helm upgrade --install multigres-operator charts/multigres-operator --namespace multigres-operator --create-namespace --wait \
  --kube-context "kind-$CLUSTER" --reset-values "${DEV_IMAGES[@]}" "${VALUES[@]}"
if [ "${1:-}" = observability ]; then
  step "installing the collector, Prometheus, Tempo and Grafana"
  for part in collector prometheus tempo grafana; do k apply --server-side -f "monitoring/overlay/$part.yaml"; done
  k wait --for=condition=Available deployment otel-collector tempo grafana --namespace multigres-operator --timeout=180s
  k wait --for=condition=Available prometheus multigres --namespace multigres-operator --timeout=180s
  echo "make kind-portforward opens Grafana on :3000, Prometheus on :9090 and Tempo on :3200"
fi
echo "Next: kubectl --context kind-$CLUSTER create namespace demo && kubectl --context kind-$CLUSTER -n demo apply -f samples/minimal.yaml"
