#!/usr/bin/env bash
# The chart renders with its supported values, a real API server accepts every object, and wrong values are refused with a remedy.
# Runs itself again below a control plane of its own.
. "$(dirname "$0")/lib.sh"
build_testbed
if [ -z "${MULTIGRES_TEST_KUBECONFIG:-}" ]; then
  PATH="$(testbed tools helm | tail -1):$PATH" testbed control-plane -- hack/chart-test.sh
  exit
fi
CHART=charts/multigres-operator
RENDER=$(mktemp)
trap 'rm -f "$RENDER"' EXIT
passed=0

ok() { passed=$((passed + 1)); printf '  ok  %s\n' "$1"; }
refused() { # name, expected text, helm arguments
  local name=$1 text=$2 output; shift 2
  if output=$(helm template multigres-operator "$CHART" "$@" 2>&1); then echo "FAILED: $name was accepted"; exit 1; fi
  case $output in *"$text"*) ok "refused: $name" ;; *) printf 'FAILED: %s: no "%s" in:\n%s\n' "$name" "$text" "$output"; exit 1 ;; esac
}

kubectl create namespace multigres-operator > /dev/null
helm lint --strict "$CHART" > /dev/null && ok "lint"
for values in "" "--set controller.replicas=2" "--set metrics.enabled=false" "--set crds.install=false" \
  "--set global.imageRegistry=registry.example.com" "--set rbac.create=false" "--set controller.nativeSidecars=off" \
  "--set operands.images.postgres=registry.example.com/pgctld:1" "--set controller.serviceAccount.create=false,controller.serviceAccount.name=mine"; do
  # shellcheck disable=SC2086 # the words are arguments
  helm template multigres-operator "$CHART" --namespace multigres-operator $values > "$RENDER"
  kubectl apply --server-side --dry-run=server --validate=strict -f "$RENDER" > /dev/null
  ok "accepted by the API server: ${values:-defaults}"
done
for crd in crds/*.yaml; do
  case $crd in */multigres-crds.yaml) continue ;; esac
  cmp -s "$crd" "$CHART/files/$crd" || { echo "FAILED: $CHART/files/$crd differs from $crd"; exit 1; }
done
ok "the chart carries every CRD"
refused "an unknown value" "additional properties" --set nonsense=1
refused "two replicas without election" "controller.leaderElection.enabled=true" --set controller.replicas=2 --set controller.leaderElection.enabled=false
refused "kube-system" "--create-namespace" --namespace kube-system
refused "no name for an existing account" "controller.serviceAccount.name" --set controller.serviceAccount.create=false
printf '%s passed, 0 failed\n' "$passed"
