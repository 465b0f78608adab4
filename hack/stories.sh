#!/usr/bin/env bash
# End-to-end stories on a bed of their own: `stories.sh short|long|soak`.
. "$(dirname "$0")/lib.sh"
BED=${MULTIGRES_TEST_BED:-test}
FORM=${1:-short}

ensure_nextest
[ -n "${MULTIGRES_BUILT:-}" ] || cargo nextest run --locked --workspace --no-run
export MULTIGRES_BUILT=1
if [ "$FORM" = soak ]; then
  step "all rotations of certificates, all lives of a simulated shard, all fields, and all generated reviews"
  cargo nextest run --locked --workspace --profile soak --run-ignored only \
    -E 'test(pki::rotation) or test(disruption) or test(every_field_within_an_affinity)'
  cargo nextest run --locked --workspace --profile soak -E 'binary(generated)'
  step "properties, with new cases"
  cargo nextest run --locked --workspace --profile soak --stress-count 25 --status-level fail \
    -E 'test(/growth::tests::no_step_loses|disruption::tests::properties|::law::|cluster::wave::|workload::revision::|validate::review::/)'
  hack/test-oldest.sh
fi
finish() { local code=$?; [ $code = 0 ] || diagnose "$BED"; tell_second_tries; [ -n "${KEEP_BED:-}" ] || testbed --name "$BED" down; exit $code; }
trap finish EXIT
step "starting Kubernetes (bed \"$BED\", three nodes)"
testbed --name "$BED" up --nodes kubelet:3
load_images "$BED"
install_chart "$BED"
# The admission stories switch to cert-manager and back.
step "starting cert-manager"
testbed --name "$BED" cert-manager
# A second install of the same chart is an upgrade that must change nothing for the clusters.
install_chart "$BED"

step "stories ($FORM) with data plane: $DATA_PLANE"
export MULTIGRES_STORY_KUBECONFIG MULTIGRES_STORY_TOOLS MULTIGRES_STORY_AUDIT_LOG MULTIGRES_STORIES_REQUIRED=1 MULTIGRES_STORY_FORM=$FORM
MULTIGRES_STORY_KUBECONFIG=$(testbed --name "$BED" kubeconfig)
MULTIGRES_STORY_TOOLS=$(testbed tools helm kubectl | tail -1)
# Backups in an object store: rclone takes minutes to build, which must not be counted among those of its story.
if [ -n "${MULTIGRES_BIN_DIR:-}" ] && [ "$FORM" = long ]; then testbed tools rclone > "$CACHE/rclone.log"; fi
# The same goes for the collector and for the Prometheus Operator, which only the story of the evaluation stack runs.
if [ "$FORM" = long ]; then testbed tools otelcol prometheus-operator prometheus-config-reloader > "$CACHE/stack.log"; fi
# Faults of the bed itself are asked of the testbed.
export MULTIGRES_STORY_TESTBED="$TARGET/debug/testbed" MULTIGRES_STORY_BED="$BED"
MULTIGRES_STORY_AUDIT_LOG=$(dirname "$MULTIGRES_STORY_KUBECONFIG")/audit.log
wanted='package(stories) and kind(test)'
[ "$FORM" != soak ] || wanted="$wanted and (test(the_controller_may_die) or binary(admission))"
# Stories mostly wait. Those that disturb others ask for the whole bed (.config/nextest.toml). Real databases need the machine.
side_by_side=2
[ "$(nproc)" -lt 4 ] || side_by_side=3
if [ -n "${MULTIGRES_BIN_DIR:-}" ] || [ "$FORM" = soak ]; then side_by_side=1; fi
# Runs the stories of a filter ($2), so many ($1) side by side.
run_stories() {
  noted cargo nextest run --locked --workspace --profile "$([ "$FORM" = soak ] && echo soak || echo ci)" \
    --test-threads "$1" --success-output immediate --failure-output immediate-final -E "$2"
}
told=0
if [ "$FORM" = long ] && [ "$side_by_side" -gt 1 ]; then
  # All samples at once ask for nearly all processors of the three nodes: pods of a story beside them would find no room.
  run_stories "$side_by_side" "$wanted and not binary(samples)" || told=$?
  run_stories 1 "$wanted and binary(samples)" || told=$?
else
  run_stories "$side_by_side" "$wanted" || told=$?
fi
[ "$told" = 0 ] || exit "$told"

step "what the operator may do, and what it did"
story rights --form "$FORM"
