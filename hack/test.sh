#!/usr/bin/env bash
# All tests: lints, unit to API suites, the chart, and the stories in short form on a bed of three nodes.
# The stories run the programs that the tests were built with: an optimised build would be a second one of everything. The long forms and
# the figures have one.
export IMAGE_PROFILE=${IMAGE_PROFILE:-dev}
. "$(dirname "$0")/lib.sh"
# Also after a failure: what is told last is what is read.
trap 'kill ${beside:-} 2> /dev/null || true; tell_second_tries' EXIT

# Runs a command beside what comes next: a name, and the command. `joined` waits for it, and shows what it said.
meanwhile() { "${@:2}" > "$CACHE/$1.log" 2>&1 & beside=$!; }
joined() { local code=0; wait "$beside" || code=$?; beside=""; cat "$CACHE/$1.log"; return $code; }

mkdir -p "$CACHE"
ensure_nextest
step "formatting"
cargo fmt --all --check

step "building all tests"
cargo nextest run --locked --workspace --no-run
export MULTIGRES_BUILT=1
if [ "$IMAGE_PROFILE" = dev ]; then export OPERATOR_BUILT=1; fi

step "pinned Kubernetes tools, and lints meanwhile"
meanwhile lints cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
testbed tools
joined lints

step "unit, table, property, snapshot, generated-file and API server tests"
# The same cases in every run, so that a failure belongs to the change at hand; `make soak` looks for new ones.
export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-20261122}
# A fifth of the generated reviews; `make soak` has all. Twice as many at once as there are cores, because the longest mostly wait.
MULTIGRES_SPECS=${MULTIGRES_SPECS:-2000} MULTIGRES_TEST_REQUIRE=1 noted testbed control-plane -- \
  cargo nextest run --locked --workspace --profile ci --test-threads $((2 * $(nproc))) -E 'not (package(stories) and kind(test))'

step "chart, and alerts and dashboards meanwhile"
meanwhile monitoring hack/monitoring-test.sh
hack/chart-test.sh
step "alerts and dashboards"
joined monitoring

hack/stories.sh short
step "all tests passed"
