#!/usr/bin/env bash
# The chart renders with its supported values, is valid for Kubernetes, and refuses wrong values with a remedy.
. "$(dirname "$0")/lib.sh"
build_testbed
TOOLS=$(testbed tools helm kubeconform | tail -1)
export PATH="$TOOLS:$PATH"
CHART=charts/multigres-operator
passed=0

ok() { passed=$((passed + 1)); printf '  ok  %s\n' "$1"; }
refused() { # name, expected text, helm arguments
  local name=$1 text=$2 output; shift 2
  if output=$(helm template multigres-operator "$CHART" "$@" 2>&1); then echo "FAILED: $name was accepted"; exit 1; fi
  case $output in *"$text"*) ok "refused: $name" ;; *) printf 'FAILED: %s: no "%s" in:\n%s\n' "$name" "$text" "$output"; exit 1 ;; esac
}

helm lint --strict "$CHART" > /dev/null && ok "lint"
for values in "" "--set controller.replicas=2" "--set metrics.enabled=false" "--set crds.install=false" \
  "--set global.imageRegistry=registry.example.com" "--set rbac.create=false" "--set operands.images.postgres=registry.example.com/pgctld:1"; do
  # shellcheck disable=SC2086 # the words are arguments
  helm template multigres-operator "$CHART" --namespace multigres-operator $values > "$CACHE/render.yaml"
  kubeconform -strict -summary -skip CustomResourceDefinition -schema-location "$ROOT/hack/schemas/{{ .ResourceKind }}.json" \
    -ignore-missing-schemas "$CACHE/render.yaml" > "$CACHE/kubeconform.log" 2>&1 || { cat "$CACHE/kubeconform.log"; exit 1; }
  ok "renders: ${values:-defaults}"
done
for crd in crds/multigres.com_*.yaml crds/*s.yaml; do
  [ -e "$crd" ] || continue
  [ -e "$CHART/files/crds/$(basename "$crd")" ] || case $crd in *bundle*|*multigres-crds*) ;; *) echo "FAILED: $crd is not in the chart"; exit 1 ;; esac
done
ok "the chart carries every CRD"
refused "an unknown value" "additional properties" --set nonsense=1
refused "two replicas without election" "controller.leaderElection.enabled=true" --set controller.replicas=2 --set controller.leaderElection.enabled=false
refused "kube-system" "--create-namespace" --namespace kube-system
printf '%s passed, 0 failed\n' "$passed"
