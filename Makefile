# Every target is one line that calls cargo, the testbed or a script; `make help` lists them.
SHELL := /bin/bash
# Where the scripts keep the test runner.
export PATH := $(or $(MULTIGRES_TESTBED_HOME),$(HOME)/.cache/multigres-testbed)/cargo/bin:$(PATH)
# The same as in hack/lib.sh, so that nothing is built anew only because of who calls.
export GIT_REVISION := $(or $(GIT_REVISION),$(shell git describe --always --abbrev=40 --exclude='*' --dirty 2> /dev/null || echo unknown))
TESTBED := cargo run --quiet --locked --package testbed --

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  \033[36m%-22s\033[0m %s\n", $$1, $$2}'

##@ Use it
.PHONY: demo demo-multi-az demo-down
demo: bootstrap ## Start a real Kubernetes, install the chart, make a Healthy cluster, say what to try next
	@hack/demo.sh up minimal
demo-multi-az: bootstrap ## The same with three zones on three nodes
	@hack/demo.sh up demo-multi-az
demo-down: ## Stop the demo and leave nothing behind
	@hack/demo.sh down

##@ Develop it
.PHONY: bootstrap build fmt lint generate test unit api test-oldest chart monitoring stories bench bench-scale soak
bootstrap: ## Install what a Debian-like machine lacks (packages, nextest, pinned Kubernetes tools), once
	@hack/bootstrap.sh
build: ## Build the binaries as they are released
	cargo build --locked --release --package controller
	cargo build --locked --profile speed --package admission
fmt: ## Format the code
	cargo fmt --all
lint: ## Formatting, lints, and generated files that must be current
	cargo fmt --all --check && cargo clippy --locked --workspace --all-targets -- -D warnings && cargo xtask crds --check && cargo xtask monitoring --check && cargo xtask chart --check && cargo xtask purity
generate: ## Write the generated files
	cargo xtask crds && cargo xtask monitoring && cargo xtask chart && hack/chart-render.sh --write
test: bootstrap ## Everything that must pass before a change lands
	@hack/test.sh
unit: ## Unit, table, property and snapshot tests
	cargo nextest run --locked --workspace --profile ci
api: bootstrap ## Tests against a real API server
	$(TESTBED) control-plane -- cargo nextest run --locked --profile ci --package shared --test api_server
test-oldest: bootstrap ## All of them on the oldest Kubernetes that can be built here; part of soak
	@hack/test-oldest.sh
chart: bootstrap ## Render, lint and validate the charts, with Helm 4 and Helm 3
	@hack/chart-test.sh
monitoring: bootstrap ## Make every alert fire and resolve, and render what the chart ships of them
	@hack/monitoring-test.sh
stories: bootstrap ## End-to-end stories on the testbed, long form
	@hack/stories.sh long
bench: bootstrap ## Figures of docs/benchmarks.md
	@hack/bench.sh
bench-scale: bootstrap ## The same for 100, 400 and 1,000 clusters, and 1,000 of them Healthy on simulated nodes
	@hack/bench.sh scale && hack/bench.sh scale-healthy
soak: bootstrap ## Kill the controller again and again, load admission while it changes, search all rotations
	@hack/stories.sh soak

##@ Testbed, kind and plain manifests
.PHONY: testbed-up testbed-down kind-deploy kind-deploy-certmanager kind-deploy-no-webhook kind-deploy-observability kind-portforward manifests
testbed-up: bootstrap ## A three-node Kubernetes without Docker
	$(TESTBED) up --nodes kubelet:3
testbed-down: ## Stop it
	$(TESTBED) down
kind-deploy: ## Deploy to a local kind cluster (needs Docker and kind)
	@hack/kind-deploy.sh self-signed
kind-deploy-certmanager: ## The same with certificates of cert-manager
	@hack/kind-deploy.sh cert-manager
kind-deploy-no-webhook: ## The same without admission
	@hack/kind-deploy.sh no-webhook
kind-deploy-observability: ## The same with Prometheus, an OpenTelemetry collector, Tempo and Grafana
	@hack/kind-deploy.sh observability
kind-portforward: ## Open Grafana (3000), Prometheus (9090) and Tempo (3200) of the local kind cluster
	@hack/kind-portforward.sh
manifests: bootstrap ## Render install*.yaml for installs without Helm into dist/
	@hack/manifests.sh dist
