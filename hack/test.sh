#!/usr/bin/env bash
# All tests: unit to API suites, the chart, and the stories in short form on a bed of three nodes.
. "$(dirname "$0")/lib.sh"
BED=${MULTIGRES_TEST_BED:-test}

ensure_nextest
step "building the testbed and its tools"
build_testbed
testbed tools

step "generated files and lints"
cargo run --quiet --locked --package xtask -- crds --check
cargo run --quiet --locked --package xtask -- purity
cargo fmt --all --check
cargo clippy --quiet --locked --workspace --all-targets -- -D warnings

step "unit, table, property, snapshot and API server tests"
MULTIGRES_TEST_REQUIRE=1 testbed control-plane -- cargo nextest run --locked --workspace --exclude stories --profile ci
cargo nextest run --locked --package stories --lib --profile ci

step "chart"
hack/chart-test.sh

hack/stories.sh short
step "all tests passed"
