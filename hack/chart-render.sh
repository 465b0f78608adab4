#!/usr/bin/env bash
# What can be said of the charts without an API server. What they render with the values of their folders `ci` is what is committed in
# `tests/golden`, with Helm 4 and with Helm 3, so that a change of a template shows all that it changes; and the suites in `tests` hold.
# `chart-render.sh --write` writes the renderings anew. A line `# helm: …` of a file in `ci` has further arguments of helm.
. "$(dirname "$0")/lib.sh"
build_testbed
CHART=charts/multigres-operator
CRDS=charts/multigres-operator-crds
# What Helm takes a server to be differs between its versions.
KUBERNETES=1.36.0
HELM=$(testbed tools helm | tail -1)/helm
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

ok() { printf '  ok  %s\n' "$1"; }
failed() { printf 'FAILED: %s\n' "$@"; exit 1; }

# Documents without the empty lines between them.
squeezed() { sed '/^[[:space:]]*$/d'; }

render() { # helm, name of the values
  local words
  mapfile -t words < <(sed -n 's/^# helm: //p' "$CHART/ci/$2.yaml" | tr ' ' '\n')
  (cd "$CHART" && "$1" template multigres-operator . --namespace multigres-operator --kube-version "$KUBERNETES" --set crds.install=false \
    "${words[@]}" --values "ci/$2.yaml") | squeezed
}

# One line for each document: versions of Helm order kinds differently.
documents() { awk 'BEGIN { RS = "---\n" } NF { gsub("\n", "\\n"); print }' "$1" | sort; }

names() { find "$1" -name '*.yaml' -exec basename {} .yaml \; | sort; }

if [ "${1:-}" = --write ]; then
  rm -rf "$CHART/tests/golden"; mkdir -p "$CHART/tests/golden"
  for name in $(names "$CHART/ci"); do render "$HELM" "$name" > "$CHART/tests/golden/$name.yaml"; done
  exit
fi

HELM3=$(testbed tools helm3 | tail -1)/helm3
for chart in "$CHART" "$CRDS"; do "$HELM" lint --strict --quiet "$chart" > "$WORK/log" 2>&1 || failed "lint of $chart" "$(cat "$WORK/log")"; done
ok "lint"

[ "$(names "$CHART/ci")" = "$(names "$CHART/tests/golden")" ] || failed "a rendering has no values, or values have none: run hack/chart-render.sh --write"
for name in $(names "$CHART/ci"); do
  golden=$CHART/tests/golden/$name.yaml
  render "$HELM" "$name" > "$WORK/4"
  diff -u "$golden" "$WORK/4" > "$WORK/diff" || failed "ci/$name.yaml renders something else; if that is wanted, run hack/chart-render.sh --write" "$(head -60 "$WORK/diff")"
  render "$HELM3" "$name" > "$WORK/3"
  diff <(documents "$golden") <(documents "$WORK/3") > "$WORK/diff" || failed "Helm 3 renders ci/$name.yaml differently" "$(cut -c1-400 "$WORK/diff")"
  if grep -q caBundle "$golden"; then failed "caBundle in $golden"; fi
done
ok "Helm 4 and Helm 3 render what is committed"

# The definitions are the same from both charts.
for helm in "$HELM" "$HELM3"; do
  "$helm" template multigres-operator "$CHART" --kube-version "$KUBERNETES" --show-only templates/crds/crds.yaml | squeezed | grep -v '^# Source' > "$WORK/of-operator"
  "$helm" template multigres-operator-crds "$CRDS" --kube-version "$KUBERNETES" | squeezed | grep -v '^# Source' > "$WORK/of-crds"
  cmp -s "$WORK/of-operator" "$WORK/of-crds" || failed "the two charts have different definitions" "$(diff "$WORK/of-operator" "$WORK/of-crds" | head -20)"
done
grep -q 'helm.sh/resource-policy: keep' "$WORK/of-crds" || failed "definitions that a removal would delete"
"$HELM" template multigres-operator-crds "$CRDS" --set keep=false,annotations.mine=yes > "$WORK/given-up"
if grep -q 'helm.sh/resource-policy' "$WORK/given-up"; then failed "definitions are kept against keep=false"; fi
[ "$(grep -c '^    mine: "yes"\|^    mine: yes' "$WORK/given-up")" = "$(grep -c '^kind: CustomResourceDefinition' "$WORK/given-up")" ] || failed "annotations do not reach the definitions"
ok "both charts have the same definitions"

"$(testbed tools helm-unittest | tail -1)/helm-unittest" --strict "$CHART" > "$WORK/log" 2>&1 || failed "suites of $CHART" "$(cat "$WORK/log")"
sed -n 's/^Tests: */  ok  unit tests of templates: /p' "$WORK/log"
