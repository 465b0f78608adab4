#!/usr/bin/env bash
# The API suites against the oldest Kubernetes that can be built here (docs/testbed.md says which).
. "$(dirname "$0")/lib.sh"
ensure_nextest
build_testbed
step "API suites on the oldest Kubernetes"
MULTIGRES_TEST_REQUIRE=1 testbed control-plane --kubernetes oldest -- cargo nextest run --locked --workspace --profile ci \
  -E 'binary(api_server) + (package(controller) & binary(env) - test(/^topology::/)) + (package(admission) & binary(/api/))'

step "what the chart renders for it"
testbed control-plane --kubernetes oldest -- bash -ec '
  kubectl apply --server-side -f hack/namespace.yaml
  # The pods of `helm test` are refused where their accounts are missing.
  for test in admission metrics; do kubectl create serviceaccount "multigres-operator-test-$test" --namespace multigres-operator; done
  kubectl apply --server-side --dry-run=server --validate=strict -f charts/multigres-operator/tests/golden/server-1.25.yaml'
