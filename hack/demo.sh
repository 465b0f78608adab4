#!/usr/bin/env bash
# The demo: `demo.sh up [minimal|demo-multi-az]` and `demo.sh down`.
. "$(dirname "$0")/lib.sh"
BED=demo
NAMESPACE=multigres-demo

up() {
  local sample=$1 nodes=kubelet:1 manifest cluster
  manifest=samples/$sample.yaml; cluster=$sample
  if [ "$sample" = demo-multi-az ]; then nodes=kubelet:3; manifest=samples/demo-multi-az-shared-volume.yaml; fi
  step "building the testbed"; build_testbed
  step "starting Kubernetes (bed \"$BED\", $nodes)"
  testbed --name "$BED" up --nodes "$nodes"
  load_images "$BED"
  install_chart "$BED"
  step "applying $manifest"
  k create namespace "$NAMESPACE" --dry-run=client -o yaml | k apply -f - > /dev/null
  k -n "$NAMESPACE" apply -f "$manifest"
  wait_healthy "$cluster" || { diagnose "$BED"; echo "The cluster did not become Healthy."; exit 1; }
  show "$cluster" "$manifest"
}

k() { testbed --name "$BED" shell -- kubectl "$@"; }

# Shows progress until the cluster is Healthy, at most five minutes.
wait_healthy() {
  local cluster=$1 last="" line
  local until=$((SECONDS + 300))
  while [ $SECONDS -lt $until ]; do
    line=$(k -n "$NAMESPACE" get multigrescluster "$cluster" -o jsonpath='{.status.phase}: {.status.message}' 2>/dev/null || true)
    [ "$line" != "$last" ] && { printf '   %4s s  %s\n' "$SECONDS" "$line"; last=$line; }
    case $line in Healthy:*) return 0 ;; esac
    read -rt 1 <> <(:) || true
  done
  return 1
}

show() {
  local cluster=$1 manifest=$2
  step "what was made"
  k -n "$NAMESPACE" get multigrescluster,toposerver,cell,tablegroup,shard
  echo
  cargo run --quiet --locked --package stories --bin tree -- --kubeconfig "$(testbed --name "$BED" kubeconfig)" --namespace "$NAMESPACE" --cluster "$cluster"
  echo
  k -n "$NAMESPACE" get pods -o wide
  local roles; roles=$(k -n "$NAMESPACE" get shards -o jsonpath='{.items[0].status.podRoles}')
  cat <<TEXT

The cluster "$cluster" is Healthy. Data plane: $DATA_PLANE
Roles: $roles

Try next
  hack/demo.sh shell                             a shell with kubectl and helm set up for this cluster
  kubectl -n $NAMESPACE get multigres            everything of ours
  kubectl -n $NAMESPACE describe shard           conditions, roles, events
  kubectl -n $NAMESPACE patch multigrescluster $cluster --type=merge -p '{"spec":{"logLevels":{"multiorch":"debug"}}}'
  kubectl -n $NAMESPACE delete -f $manifest      volumes are kept; apply it again to use them
TEXT
  if [ -n "${MULTIGRES_BIN_DIR:-}" ]; then cat <<TEXT
  testbed --name $BED exec -- psql with PGPASSWORD from the Secret $cluster-postgres-password, host $cluster-multigateway.$NAMESPACE.svc.cluster.local
TEXT
  fi
  cat <<TEXT

Stop it all
  make demo-down
TEXT
}

case "${1:-up}" in
  up) up "${2:-minimal}" ;;
  down) build_testbed; testbed --name "$BED" down; echo "The demo is gone." ;;
  shell) shift; build_testbed; exec "$TARGET/debug/testbed" --name "$BED" shell -- "${@:-$SHELL}" ;;
  *) echo "usage: demo.sh up [minimal|demo-multi-az] | down | shell" >&2; exit 2 ;;
esac
