#!/usr/bin/env bash
# The API suites against the oldest Kubernetes that can be built here (docs/testbed.md says which).
. "$(dirname "$0")/lib.sh"
ensure_nextest
build_testbed
step "API suites on the oldest Kubernetes"
MULTIGRES_TEST_REQUIRE=1 testbed control-plane --kubernetes oldest -- cargo nextest run --locked --workspace --profile ci \
  -E 'binary(api_server) + (package(controller) & binary(env) - test(/^topology::/)) + (package(admission) & binary(/api/))'
