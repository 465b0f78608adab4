#!/usr/bin/env bash
# Figures for docs/benchmarks.md: reviews, writes, idle writes, memory, time. IDLE sets the idle window in seconds.
# `bench.sh foreign` measures only what other people's objects cost; it needs no nodes and takes two minutes.
# `bench.sh scale` measures 100, 400 and 1,000 clusters without nodes, `bench.sh scale-healthy` how 1,000 become Healthy on simulated
# nodes (NODES, default kwok:30); flags of bench_scale may follow. Neither is part of the whole, and neither needs a bed that runs.
. "$(dirname "$0")/lib.sh"
BED=bench
build_testbed
bench_foreign() {
  cargo build --locked --release --package controller >&2
  cargo build --locked --package stories --bin bench_foreign >&2
  testbed control-plane -- "$TARGET/debug/bench_foreign" --controller "$TARGET/release/controller"
}
# The program that counts reads hundreds of megabytes of the audit log beside what it measures: a development build is too slow for that.
build_scale() {
  cargo build --locked --release --package controller >&2
  cargo build --locked --profile "$IMAGE_PROFILE" --package standin --package stories --bin standin --bin bench_scale >&2
  # A connection for each topology and each pooler that is asked.
  [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge 16384 ] || ulimit -Sn 16384 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"
}
bench_scale() {
  build_scale
  testbed control-plane -- "$PROGRAMS/bench_scale" --controller "$TARGET/release/controller" --logs "$CACHE/bench-scale" "$@"
}
bench_scale_healthy() {
  BED=bench-scale
  build_scale
  trap '[ -n "${KEEP_BED:-}" ] || testbed --name "$BED" down >&2' EXIT
  testbed --name "$BED" up --nodes "${NODES:-kwok:30}" >&2
  testbed --name "$BED" shell -- "$PROGRAMS/bench_scale" --controller "$TARGET/release/controller" --standin "$PROGRAMS/standin" \
    --logs "$CACHE/bench-scale-healthy" "$@"
}
case "${1:-}" in
  foreign) bench_foreign; exit ;;
  scale) shift; bench_scale "$@"; exit ;;
  scale-healthy) shift; bench_scale_healthy "$@"; exit ;;
esac
finish() { local code=$?; [ $code = 0 ] || diagnose "$BED" >&2; [ -n "${KEEP_BED:-}" ] || testbed --name "$BED" down; exit $code; }
trap finish EXIT
{
  # Before there is a bed: the service and its load each have a core to themselves.
  step "reviews on one core"
  cargo build --locked --profile speed --package stories --bin bench_admission --bin bench_tracing --package admission --bin admission
  "$TARGET/speed/bench_admission" > "$CACHE/bench-admission"
  step "spans and lines"
  "$TARGET/speed/bench_tracing" > "$CACHE/bench-tracing"
  step "objects of others"
  bench_foreign > "$CACHE/bench-foreign"
  testbed --name "$BED" up --nodes kubelet:3
  # What is measured is what is released; only what it is measured with comes from the profile of the testbed's images.
  cargo build --locked --release --package controller
  cargo build --locked --profile "$IMAGE_PROFILE" --package standin --package stories --bin standin --bin tree
  OPERATOR_BUILT=1 CONTROLLER_BIN=$TARGET/release/controller ADMISSION_BIN=$TARGET/speed/admission load_images "$BED"
  install_chart "$BED"
} >&2
MULTIGRES_STORY_KUBECONFIG=$(testbed --name "$BED" kubeconfig)
MULTIGRES_STORY_AUDIT_LOG=$(dirname "$MULTIGRES_STORY_KUBECONFIG")/audit.log
MULTIGRES_STORY_TOOLS=$(testbed tools kubectl | tail -1)
export MULTIGRES_STORY_KUBECONFIG MULTIGRES_STORY_AUDIT_LOG MULTIGRES_STORY_TOOLS
printf '## %s, %s cores, %s, data plane: %s\n\n' "$(git rev-parse --short HEAD)" "$(nproc)" "$(date -u +%F)" "$DATA_PLANE"
printf '### admission\n\n'; cat "$CACHE/bench-admission"; echo
printf '### spans and lines\n\n'; cat "$CACHE/bench-tracing"; echo
printf '### objects of others\n\n'; cat "$CACHE/bench-foreign"; echo
story bench --idle "${IDLE:-300}" samples/minimal.yaml samples/demo-multi-az-shared-volume.yaml
# The command that packs them prints the controller's archive first.
{ read -r controller; read -r admission; } < "$CACHE/operator-images"
printf 'Image archive of the controller, compressed: %s bytes; of admission: %s bytes\n' "$(gzip -c "$controller" | wc -c)" "$(gzip -c "$admission" | wc -c)"
