#!/usr/bin/env bash
# Every alert fires and resolves in its test: as it is in monitoring/rules, as `kubectl apply` gets it, and as the chart renders it. Values
# change what they should, and what cannot work is refused with a remedy.
. "$(dirname "$0")/lib.sh"
build_testbed
PATH="$(testbed tools helm promtool | paste -sd:):$PATH"
CHART=charts/multigres-operator
NAMESPACE=multigres-operator
SERVED=(--api-versions monitoring.coreos.com/v1)
RULES=(--set monitoring.prometheusRule.enabled=true)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

ok() { printf '  ok  %s\n' "$1"; }
failed() { printf 'FAILED: %s\n' "$@"; exit 1; }
render() { helm template multigres-operator "$CHART" --namespace "$NAMESPACE" --set crds.install=false "$@"; }
# The rules of a PrometheusRule, as Prometheus reads them.
groups() { sed -n '/^  groups:/,$p' | sed 's/^  //'; }
refused() { # what, expected text, helm arguments
  local what=$1 text=$2 output; shift 2
  if output=$(render "$@" 2>&1); then failed "$what was accepted"; fi
  case $output in *"$text"*) ok "refused: $what" ;; *) failed "$what: no \"$text\" in:" "$output" ;; esac
}
check() { # what, file with all rules, file that replaces its runbooks' folder
  local what=$1 file=$2 rule
  promtool check rules --lint=all --lint-fatal "$file" > "$WORK/log" || failed "$what: promtool refuses the rules" "$(cat "$WORK/log")"
  # The tests name one file per alert; all of them are this one.
  rm -rf "$WORK/rules" "$WORK/tests"; mkdir "$WORK/rules"
  cp -r monitoring/tests "$WORK/tests"
  # Where runbooks are read differs on purpose.
  sed -E 's#/blob/v[^/]+/monitoring#/blob/main/monitoring#' "$file" > "$WORK/all.yaml"
  for rule in monitoring/rules/*.yaml; do ln -s ../all.yaml "$WORK/rules/${rule##*/}"; done
  promtool test rules "$WORK"/tests/*.yaml > "$WORK/log" 2>&1 || failed "$what" "$(cat "$WORK/log")"
  ok "$what"
}

for rule in monitoring/rules/*.yaml; do
  name=$(basename "$rule" .yaml)
  [ "$(grep -c "alert: $name\$" "$rule")" = 1 ] || failed "$rule does not have the one alert $name"
  [ -f "monitoring/tests/$name.yaml" ] || failed "$name has no test"
  [ -f "monitoring/runbooks/$name.md" ] || failed "$name has no runbook"
  # A test that expects nothing but silence proves nothing, and neither does one that expects no silence.
  grep -q 'exp_alerts: \[\]' "monitoring/tests/$name.yaml" || failed "the test of $name does not see it resolve"
  grep -q 'exp_labels:' "monitoring/tests/$name.yaml" || failed "the test of $name does not see it fire"
done
promtool check rules --lint=all --lint-fatal monitoring/rules/*.yaml > "$WORK/log" || failed "promtool refuses the rules" "$(cat "$WORK/log")"
promtool test rules monitoring/tests/*.yaml > "$WORK/log" 2>&1 || failed "the tests of the rules" "$(cat "$WORK/log")"
ok "every alert fires and resolves"

# What runbooks have people type: shell and PromQL that can be read.
for book in monitoring/runbooks/*.md; do
  awk '/^```sh$/ { on = 1; next } /^```/ { on = 0 } on' "$book" | bash -n || failed "$book: not shell"
  awk '/^```promql$/ { on = 1; next } /^```/ { on = 0 } on' "$book"
done | awk '{ gsub(/\047/, "\047\047"); printf "  - record: asked:%d\n    expr: \047%s\047\n", NR, $0 }' | sed '1i groups:\n- name: runbooks\n  rules:' > "$WORK/asked.yaml"
promtool check rules "$WORK/asked.yaml" > "$WORK/log" 2>&1 || failed "a query of a runbook" "$(cat "$WORK/log")"
ok "commands and queries of runbooks can be read"

groups < monitoring/prometheus-rules.yaml > "$WORK/plain.yaml"
check "the same as kubectl gets them" "$WORK/plain.yaml"
render "${SERVED[@]}" "${RULES[@]}" --show-only templates/monitoring/prometheusrule.yaml | groups > "$WORK/chart.yaml"
check "the same as the chart renders them" "$WORK/chart.yaml"
[ "$(grep -c 'alert: ' "$WORK/chart.yaml")" = "$(find monitoring/rules -name '*.yaml' | wc -l)" ] || failed "the chart leaves alerts out"

render "${SERVED[@]}" "${RULES[@]}" --set-string monitoring.prometheusRule.labels.release=mine,monitoring.prometheusRule.additionalRuleLabels.team=db \
  --set monitoring.prometheusRule.rules.MultigresReconcileSlow.threshold=1.5,monitoring.prometheusRule.rules.MultigresReconcileSlow.for=30s \
  --set monitoring.prometheusRule.rules.MultigresReconcileSlow.severity=page,monitoring.prometheusRule.rules.MultigresBackupStale.enabled=false \
  --set monitoring.prometheusRule.groups.dataPlane=false,monitoring.prometheusRule.runbookBaseUrl=https://example.com/books/,admission.replicas=3 \
  --set monitoring.prometheusRule.rules.MultigresCertificateExpiring.threshold=1209600,monitoring.prometheusRule.keepFiringFor=5m \
  --show-only templates/monitoring/prometheusrule.yaml > "$WORK/values.yaml"
grep -q '^    release: mine$' "$WORK/values.yaml" || failed "no label on the PrometheusRule"
groups < "$WORK/values.yaml" > "$WORK/changed.yaml"
promtool check rules "$WORK/changed.yaml" > "$WORK/log" || failed "promtool refuses rules with other values" "$(cat "$WORK/log")"
slow=$(sed -n '/alert: MultigresReconcileSlow/,/alert: /p' "$WORK/changed.yaml")
for text in '> 1.5 # threshold' 'for: 30s' 'severity: page' 'team: db' 'keep_firing_for: 5m' 'runbook_url: https://example.com/books/MultigresReconcileSlow.md'; do
  case $slow in *"$text"*) ;; *) failed "no \"$text\" in:" "$slow" ;; esac
done
grep -q -- '< 3 # threshold' "$WORK/changed.yaml" || failed "the number of replicas is not that of the values"
grep -qE -- '< (1209600|1.2096e\+06) # threshold' "$WORK/changed.yaml" || failed "no large threshold"
if grep -qE 'MultigresBackupStale|multigres-operator.dataPlane' "$WORK/changed.yaml"; then failed "an alert or a group is not left out"; fi
ok "thresholds, times, severities, labels and groups are values"
render "${SERVED[@]}" "${RULES[@]}" --set admission.enabled=false --show-only templates/monitoring/prometheusrule.yaml > "$WORK/without"
if grep -qE 'MultigresAdmissionDown|MultigresCertificate' "$WORK/without"; then failed "alerts about a webhook that is not there"; fi
ok "without admission nothing misses it"
if render "${SERVED[@]}" | grep -qE 'kind: PrometheusRule|-dashboard-|-runbooks'; then failed "monitoring without being asked for"; fi
refused "rules where nobody knows them" "install the Prometheus Operator first" "${RULES[@]}"
refused "rules without metrics" "set metrics.enabled=true" "${SERVED[@]}" "${RULES[@]}" --set metrics.enabled=false
MONITOR=(--set monitoring.serviceMonitor.enabled=true)
refused "monitors where nobody knows them" "install the Prometheus Operator first" "${MONITOR[@]}"
refused "monitors without metrics" "set metrics.enabled=true" "${SERVED[@]}" "${MONITOR[@]}" --set metrics.enabled=false
refused "an interval without a unit" "interval" "${SERVED[@]}" "${MONITOR[@]}" --set-string monitoring.serviceMonitor.interval=30
render "${SERVED[@]}" "${MONITOR[@]}" --set admission.enabled=false --show-only templates/monitoring/servicemonitors.yaml > "$WORK/monitors"
[ "$(grep -c 'kind: ServiceMonitor' "$WORK/monitors")" = 1 ] || failed "a monitor of what is not there"
ok "only what is there is monitored"
refused "an alert that does not exist" "there is no such alert" "${SERVED[@]}" "${RULES[@]}" --set monitoring.prometheusRule.rules.MultigresNonsense.for=1m
refused "a threshold where there is none" "has no threshold" "${SERVED[@]}" "${RULES[@]}" --set monitoring.prometheusRule.rules.MultigresOperatorDown.threshold=1
refused "a time without a unit" "for" "${SERVED[@]}" "${RULES[@]}" --set-string monitoring.prometheusRule.rules.MultigresOperatorDown.for=10
refused "a dashboard that does not exist" "include" --set 'monitoring.dashboards.include={nonsense}'

render --set monitoring.dashboards.enabled=true --set-string monitoring.dashboards.labels.team=db --show-only templates/monitoring/dashboards.yaml > "$WORK/dashboards"
[ "$(grep -c 'grafana_dashboard: "1"' "$WORK/dashboards")" = 3 ] || failed "dashboards without the label that Grafana's sidecar looks for"
[ "$(grep -c 'team: db' "$WORK/dashboards")" = 3 ] || failed "dashboards without a label of the user"
for name in operator cluster data-plane; do
  # The text of the ConfigMap is the file.
  awk -v key="  multigres-$name.json: |" '$0 == key { on = 1; next } on && !/^    / { exit } on' "$WORK/dashboards" | sed 's/^    //' |
    cmp -s - "$CHART/files/monitoring/dashboards/$name.json" || failed "dashboard $name is not the file"
done
ok "dashboards are ConfigMaps that Grafana finds"
render --set monitoring.runbooks.enabled=true --show-only templates/monitoring/runbooks.yaml > "$WORK/runbooks"
[ "$(grep -c '^  Multigres.*\.md: ' "$WORK/runbooks")" = "$(find monitoring/runbooks -name 'Multigres*.md' | wc -l)" ] || failed "runbooks are missing"
ok "runbooks can be taken along"
