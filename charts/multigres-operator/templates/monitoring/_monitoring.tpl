{{/* Where runbooks are read: at the tag of this version, unless told otherwise. */}}
{{- define "multigres-operator.runbookBaseUrl" -}}
{{- default (printf "https://github.com/multigres/multigres-operator-rs/blob/v%s/monitoring/runbooks" .Chart.AppVersion) .Values.monitoring.prometheusRule.runbookBaseUrl | trimSuffix "/" -}}
{{- end -}}

{{/* Groups of rules, as YAML: each file below files/monitoring/rules has one alert, and values change it. */}}
{{- define "multigres-operator.ruleGroups" -}}
{{- $settings := .Values.monitoring.prometheusRule -}}
{{- $groups := dict -}}
{{- range $path, $_ := .Files.Glob "files/monitoring/rules/*.yaml" -}}
{{- $group := index ($.Files.Get $path | fromYaml).groups 0 -}}
{{- $rule := index $group.rules 0 -}}
{{- $topic := trimPrefix "multigres-operator." $group.name -}}
{{- $own := default dict (index $settings.rules $rule.alert) -}}
{{- $served := or $.Values.admission.enabled (not (has $topic (list "admission" "certificates"))) -}}
{{- if and $served (ne (index $settings.groups $topic) false) (ne (index $own "enabled") false) -}}
{{- $threshold := index $own "threshold" -}}
{{- if and (kindIs "invalid" $threshold) (eq $rule.alert "MultigresAdmissionDegraded") -}}
{{- $threshold = ternary $.Values.admission.autoscaling.minReplicas $.Values.admission.replicas $.Values.admission.autoscaling.enabled -}}
{{- end -}}
{{- if not (kindIs "invalid" $threshold) -}}
{{- if not (contains "# threshold" $rule.expr) -}}
{{- fail (printf "monitoring.prometheusRule.rules.%s.threshold is set, but this alert has no threshold: remove it" $rule.alert) -}}
{{- end -}}
{{- $_ := set $rule "expr" (regexReplaceAll "[0-9.]+ # threshold" $rule.expr (printf "%v # threshold" $threshold)) -}}
{{- end -}}
{{- if $own.for -}}{{- $_ := set $rule "for" $own.for -}}{{- end -}}
{{- with $settings.keepFiringFor -}}{{- $_ := set $rule "keep_firing_for" . -}}{{- end -}}
{{- $labels := merge (dict) (default dict $own.labels) $settings.additionalRuleLabels (dict "severity" (default $rule.labels.severity $own.severity)) -}}
{{- $_ := set $rule "labels" $labels -}}
{{- /* The operator of this release: another one that is up must not hide that this one is down. */ -}}
{{- $_ := set $rule "expr" (replace "job=~\".*" (printf "job=~\"%s-" (include "multigres-operator.fullname" $)) $rule.expr) -}}
{{- $url := printf "%s/%s.md" (include "multigres-operator.runbookBaseUrl" $) $rule.alert -}}
{{- $annotations := merge (dict) (default dict $own.annotations) $settings.additionalRuleAnnotations (dict "runbook_url" $url) $rule.annotations -}}
{{- $_ := set $rule "annotations" $annotations -}}
{{- $_ := set $groups $group.name (append (default list (index $groups $group.name)) $rule) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $settings.rules -}}
{{- if not ($.Files.Get (printf "files/monitoring/rules/%s.yaml" $name)) -}}
{{- fail (printf "monitoring.prometheusRule.rules.%s: there is no such alert; docs/observability.md lists them" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $rules := $groups }}
- name: {{ $name }}
  rules:
    {{- toYaml $rules | nindent 4 }}
{{- end }}
{{- with $settings.extraRules }}
- name: multigres-operator.extra
  rules:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}
