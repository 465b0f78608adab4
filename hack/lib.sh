# What the scripts of this folder share. Sourced, not run.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
CACHE=${MULTIGRES_TESTBED_HOME:-$HOME/.cache/multigres-testbed}
export PATH="$CACHE/cargo/bin:$PATH"
# A fresh clone in CI finds the last build: compiling the dependencies again would be most of its time.
if [ -n "${CI:-}" ] && [ -z "${CARGO_TARGET_DIR:-}" ]; then export CARGO_TARGET_DIR="$CACHE/target"; fi
# Incremental files of ever new clones would only fill the disk.
if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=0; fi
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# Cargo goes by times, and would take what another checkout built later for up to date here, although it knows that one's place and content.
if [ -n "${CARGO_TARGET_DIR:-}" ] && [ "$(cat "$TARGET/checkout" 2> /dev/null)" != "$ROOT" ]; then
  find . -path ./target -prune -o -name '*.rs' -exec touch {} +
  mkdir -p "$TARGET"
  printf '%s\n' "$ROOT" > "$TARGET/checkout"
fi
# The commit that programs are built from, as their metrics tell it; a checkout with changes of its own says so.
export GIT_REVISION=${GIT_REVISION:-$(git describe --always --abbrev=40 --exclude='*' --dirty 2> /dev/null || echo unknown)}
CONTROLLER_IMAGE=localhost/multigres-operator-controller:dev
ADMISSION_IMAGE=localhost/multigres-operator-admission:dev
# Values that make the chart take the images of this checkout.
DEV_IMAGES=(
  --set controller.image.registry=localhost --set controller.image.repository=multigres-operator-controller --set controller.image.tag=dev
  --set admission.image.registry=localhost --set admission.image.repository=multigres-operator-admission --set admission.image.tag=dev
)

NEXTEST=0.9.151

step() { printf '\n\033[1m== %s\033[0m  (%s s)\n' "$*" "$SECONDS"; }

testbed() { "$TARGET/debug/testbed" "$@"; }

# The test runner, built once and kept outside of the checkout.
ensure_nextest() {
  cargo nextest --version 2>/dev/null | grep -q "$NEXTEST" && return
  step "building the test runner, cargo-nextest $NEXTEST (once)"
  # It waits for tests; optimising it would take longer than it could win. Updates of itself are a third of its code.
  CARGO_PROFILE_DEV_DEBUG=false cargo install --debug cargo-nextest --locked --version "$NEXTEST" --no-default-features --features default-no-update --root "$CACHE/cargo"
}

# `make test` has built everything already; building one package again would compile its dependencies for other features.
build_testbed() { [ -n "${MULTIGRES_BUILT:-}" ] || cargo build --quiet --locked --package testbed; }

# Tests that passed only at the second try, one a line.
SECOND_TRIES=""

# Runs a command that runs the tests of profile ci, and remembers which of them passed only at the second try. A failed test shows
# what it found, not sixty frames of the runtime: MULTIGRES_TEST_BACKTRACE=1 brings them back.
noted() {
  local code=0 report=$TARGET/nextest/ci/junit.xml again
  rm -f "$report"
  RUST_BACKTRACE=${MULTIGRES_TEST_BACKTRACE:-0} "$@" || code=$?
  again=$(second_tries "$report")
  [ -z "$again" ] || SECOND_TRIES+=$again$'\n'
  return $code
}

# Prints the tests of a report ($1) that failed at first: nextest puts those failures below a test that passed in the end.
second_tries() {
  [ ! -f "$1" ] || awk '
    function value(name) { return match($0, " " name "=\"[^\"]*\"") ? substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4) : "?" }
    /^ *<testcase / { test = value("classname") " " value("name"); told = 0 }
    /^ *<(flakyFailure|flakyError)[ >\/]/ && !told { print "  " test; told = 1 }' "$1"
}

# Says at the end, so that nobody overlooks it, which tests did not pass at once.
tell_second_tries() {
  [ -n "$SECOND_TRIES" ] || return 0
  printf '\n\033[1;33m!! FLAKY: these tests failed, and passed only at the second try. Each is a defect of the test or of the code:\n%s\033[0m\n' "$SECOND_TRIES"
}

# Runs a program of the crate `stories`, in its debug build.
story() {
  local name=$1; shift
  if [ -n "${MULTIGRES_BUILT:-}" ]; then "$TARGET/debug/$name" "$@"; else cargo run --quiet --locked --package stories --bin "$name" -- "$@"; fi
}

# Profile that the programs of the images are built in, and where cargo puts them.
IMAGE_PROFILE=${IMAGE_PROFILE:-image}
case $IMAGE_PROFILE in dev) PROGRAMS=$TARGET/debug ;; *) PROGRAMS=$TARGET/$IMAGE_PROFILE ;; esac

# One command for all: apart, each would compile the dependencies for its own features.
build_image_programs() {
  cargo build --locked --profile "$IMAGE_PROFILE" --package controller --package admission --package standin --package stories "$@" \
    --bin controller --bin admission --bin standin --bin tree
}

# Builds the images of the operator and of the data plane and loads them into bed $1, and the picture of a cluster beside them. Sets DATA_PLANE.
load_images() {
  local bed=$1
  step "building the operator and the stand-in data plane"
  [ -n "${OPERATOR_BUILT:-}" ] || build_image_programs
  local programs=$PROGRAMS program
  if [ "$IMAGE_PROFILE" = dev ]; then
    # Most of a development build are the lines of its source.
    programs=$CACHE/programs; mkdir -p "$programs"
    for program in controller admission standin; do strip --strip-debug -o "$programs/$program" "$PROGRAMS/$program"; done
  fi
  testbed images operator "${CONTROLLER_BIN:-$programs/controller}=$CONTROLLER_IMAGE" \
    "${ADMISSION_BIN:-$programs/admission}=$ADMISSION_IMAGE" > "$CACHE/operator-images"
  if [ -n "${MULTIGRES_BIN_DIR:-}" ]; then
    step "packing the real data plane from $MULTIGRES_BIN_DIR"
    DATA_PLANE="the real one, from $MULTIGRES_BIN_DIR"
    # The web UI and the exporter come from other projects: the stand-in plays them also here.
    testbed images real --dir "$MULTIGRES_BIN_DIR" --standin "$programs/standin" > "$CACHE/data-plane-images"
  else
    step "packing the stand-in data plane"
    DATA_PLANE="the stand-in: it keeps the topology and elects primaries, and holds no data (set MULTIGRES_BIN_DIR for the real one)"
    testbed images standin --bin "$programs/standin" > "$CACHE/data-plane-images"
  fi
  step "loading images into the nodes"
  # shellcheck disable=SC2046 # one archive a line, without spaces
  testbed --name "$bed" load $(cat "$CACHE/operator-images" "$CACHE/data-plane-images")
}

# Installs or upgrades the chart on bed $1; more arguments go to helm.
install_chart() {
  local bed=$1; shift
  step "installing the chart"
  testbed --name "$bed" shell -- kubectl apply --server-side --force-conflicts -f hack/namespace.yaml > "$CACHE/helm.log" 2>&1 || { cat "$CACHE/helm.log"; return 1; }
  testbed --name "$bed" shell -- helm upgrade --install multigres-operator charts/multigres-operator \
    --namespace multigres-operator --create-namespace --wait --timeout 3m "${DEV_IMAGES[@]}" "$@" > "$CACHE/helm.log" 2>&1 || { cat "$CACHE/helm.log"; return 1; }
  await_admission "$bed"
}

# Waits until bed $1 accepts a cluster: a Service leads to pods that are ready only once every node has heard of them.
await_admission() {
  local answer deadline=$((SECONDS + 30))
  until answer=$(testbed --name "$1" shell -- kubectl apply --dry-run=server -f samples/minimal.yaml 2>&1); do
    [ $SECONDS -lt $deadline ] || { echo "$answer"; return 1; }
    sleep 0.3
  done
}

# Prints what to look at when something went wrong on bed $1.
diagnose() {
  testbed --name "$1" shell -- sh -c '
    kubectl get multigres -A -o wide; kubectl get pods -A -o wide; kubectl get events -A --sort-by=.lastTimestamp | tail -30
    kubectl -n multigres-operator logs -l app.kubernetes.io/component=controller --tail=60
    kubectl -n multigres-operator logs -l app.kubernetes.io/component=admission --prefix --tail=40
    kubectl get multigrescluster,shards -A -o yaml | grep -A60 "^  status:" | head -200' 2>&1 || true
}
