#!/usr/bin/env bash
# The demo: `demo.sh up [minimal|demo-multi-az]`, `down`, `shell`, `psql`.
# Nobody waits for these programs: what counts here is how long a machine without caches takes to compile them.
IMAGE_PROFILE=dev
. "$(dirname "$0")/lib.sh"
BED=demo
NAMESPACE=multigres-demo
# auto takes a real kubelet where the machine allows it; kwok:3 forces simulated nodes.
NODES=${MULTIGRES_DEMO_NODES:-auto}
RUN=$CACHE/demo
TREE=(story tree)

k() { testbed --name "$BED" shell -- kubectl "$@"; }

up() {
  local sample=$1 manifest
  manifest=samples/$sample.yaml
  if [ "$sample" = demo-multi-az ]; then
    manifest=samples/demo-multi-az-shared-volume.yaml
    [ "$NODES" != auto ] || NODES=kubelet:3
  fi
  step "building the testbed and the operator"; build_image_programs --package testbed --bin testbed
  OPERATOR_BUILT=1
  step "starting Kubernetes (bed \"$BED\", nodes $NODES)"
  testbed --name "$BED" up --nodes "$NODES"
  mkdir -p "$RUN"
  if k get nodes -o jsonpath='{.items[*].metadata.annotations}' | grep -q kwok.x-k8s.io; then
    # The pods of the chart only seem to run there, so nobody would answer for admission; the controller judges by the same rules.
    install_chart "$BED" --set admission.enabled=false
    simulated
  else
    load_images "$BED"
    TREE=("$PROGRAMS/tree")
    install_chart "$BED"
  fi
  step "applying $manifest"
  k create namespace "$NAMESPACE" --dry-run=client -o yaml | k apply -f - > /dev/null
  k patch --local -f "$manifest" --type=merge -p "${SPEC_PATCH:-{\}}" -o yaml > "$RUN/manifest.yaml"
  k -n "$NAMESPACE" apply -f "$RUN/manifest.yaml"
  wait_healthy "$sample" || { diagnose "$BED"; echo "The cluster did not become Healthy."; exit 1; }
  show "$sample"
}

# Simulated nodes run no pods: the controller, the topology server and all simulated data-plane pods are processes of this machine.
simulated() {
  local kubeconfig tools port
  step "this machine runs no kubelets: nodes are simulated, and our programs run as ordinary processes"
  DATA_PLANE="simulated: one process plays all pods; no container runs"
  kubeconfig=$(testbed --name "$BED" kubeconfig)
  tools=$(testbed tools etcd | tail -1)
  port=$(free_port)
  [ ! -e "$RUN/etcd.port" ] || port=$(cat "$RUN/etcd.port")
  echo "$port" > "$RUN/etcd.port"
  background etcd "$tools/etcd" --data-dir "$RUN/etcd" --listen-client-urls "http://127.0.0.1:$port" \
    --advertise-client-urls "http://127.0.0.1:$port" --listen-peer-urls "http://127.0.0.1:$((port + 1))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$((port + 1))" --initial-cluster "default=http://127.0.0.1:$((port + 1))" --log-level warn
  background controller "$TARGET/debug/controller" --kubeconfig "$kubeconfig" --zap-log-level info \
    --health-probe-bind-address "127.0.0.1:$((port + 2))"
  background simulate "$TARGET/debug/standin" simulate --kubeconfig "$kubeconfig" --etcd "127.0.0.1:$port"
  SPEC_PATCH="{\"spec\":{\"globalTopoServer\":{\"external\":{\"endpoints\":[\"http://127.0.0.1:$port\"]}}}}"
}

# Starts a program in the background unless it runs, and remembers it by id and start time.
background() {
  local name=$1; shift
  is_running "$name" && return
  setsid "$@" > "$RUN/$name.log" 2>&1 < /dev/null &
  echo "$! $(started $!)" > "$RUN/$name.pid"
}

started() { cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null; }

is_running() {
  local pid at
  read -r pid at 2>/dev/null < "$RUN/$1.pid" && [ "$(started "$pid")" = "$at" ]
}

stop_background() {
  local file name
  for file in "$RUN"/*.pid; do
    [ -e "$file" ] || continue
    name=$(basename "$file" .pid)
    ! is_running "$name" || kill "$(cut -d' ' -f1 "$file")"
  done
  rm -rf "$RUN"
}

free_port() {
  local port=24790
  while (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 10)); done
  echo "$port"
}

# Shows progress until the cluster is Healthy, at most five minutes.
wait_healthy() {
  local cluster=$1 last="" line
  local until=$((SECONDS + 300))
  while [ $SECONDS -lt $until ]; do
    line=$(k -n "$NAMESPACE" get multigrescluster "$cluster" -o jsonpath='{.status.phase}: {.status.message}' 2>/dev/null || true)
    [ "$line" = "$last" ] || { printf '   %4s s  %s\n' "$SECONDS" "$line"; last=$line; }
    case $line in Healthy:*) return 0 ;; esac
    sleep 0.5
  done
  return 1
}

show() {
  local cluster=$1
  step "what was made"
  "${TREE[@]}" --kubeconfig "$(testbed --name "$BED" kubeconfig)" \
    --namespace "$NAMESPACE" --cluster "$cluster"
  echo
  k -n "$NAMESPACE" get pods -o wide
  echo
  k -n "$NAMESPACE" get multigrescluster,shard
  cat <<TEXT

The cluster "$cluster" is Healthy. Data plane: $DATA_PLANE

Try next
  hack/demo.sh shell                        a shell with kubectl and helm set up; in it:
    kubectl -n $NAMESPACE get multigres
    kubectl -n $NAMESPACE describe shard
    kubectl -n $NAMESPACE patch multigrescluster $cluster --type=merge -p '{"spec":{"logLevels":{"multigateway":"debug"}}}'
    kubectl -n $NAMESPACE delete multigrescluster $cluster      (volumes are kept)
TEXT
  [ -z "${MULTIGRES_BIN_DIR:-}" ] || echo "  hack/demo.sh psql $cluster                SQL through the gateway"
  cat <<TEXT

Stop it all
  make demo-down
TEXT
}

case "${1:-up}" in
  up) up "${2:-minimal}" ;;
  down)
    [ -x "$TARGET/debug/testbed" ] || build_testbed
    stop_background
    testbed --name "$BED" down
    echo "The demo is gone."
    ;;
  shell)
    shift
    [ -x "$TARGET/debug/testbed" ] || build_testbed
    exec "$TARGET/debug/testbed" --name "$BED" shell -- "${@:-${SHELL:-bash}}"
    ;;
  psql)
    [ -x "$TARGET/debug/testbed" ] || build_testbed
    cluster=${2:-minimal}
    PGPASSWORD=$(k -n "$NAMESPACE" get secret "$cluster-postgres-password" -o jsonpath='{.data.password}' | base64 -d)
    export PGPASSWORD
    shift; shift || true
    testbed --name "$BED" exec -- psql -h "$cluster-multigateway.$NAMESPACE.svc.cluster.local" -U postgres -d postgres "$@"
    ;;
  *) echo "usage: demo.sh up [minimal|demo-multi-az] | down | shell | psql [CLUSTER [ARGS…]]" >&2; exit 2 ;;
esac
