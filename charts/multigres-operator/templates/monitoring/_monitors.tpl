{{/* Stops a rendering that asks for what no one would read: (context, value that asks). */}}
{{- define "multigres-operator.servicesMonitored" -}}
{{- $context := index . 0 -}}
{{- $asked := index . 1 -}}
{{- if not ($context.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}
{{- fail (printf "%s.enabled=true, but the cluster does not serve monitoring.coreos.com/v1: install the Prometheus Operator first, or set %s.enabled=false; helm template needs --api-versions monitoring.coreos.com/v1" $asked $asked) -}}
{{- end -}}
{{- end -}}

{{/* Labels and annotations of a monitor: (context, its settings). */}}
{{- define "multigres-operator.monitorLabels" -}}
{{- $context := index . 0 -}}
{{- $settings := index . 1 -}}
labels:
  {{- include "multigres-operator.labels" $context | nindent 2 }}
  app.kubernetes.io/component: monitoring
  {{- with $settings.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) $settings.annotations) $context.Values.global.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How an endpoint is scraped: (its settings, labels of pods by the labels of series that they become). */}}
{{- define "multigres-operator.scrape" -}}
{{- $settings := index . 0 -}}
{{- $labels := index . 1 -}}
{{- with $settings -}}
interval: {{ .interval }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- if or $labels .relabelings }}
relabelings:
  {{- range $label, $of := $labels }}
  - { action: replace, sourceLabels: [{{ $of }}], targetLabel: {{ $label }} }
  {{- end }}
  {{- with .relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* What a pod of a cluster is part of, as the alerts and dashboards call it. */}}
{{- define "multigres-operator.podLabels" -}}
{{- range . }}
{{ . }}: __meta_kubernetes_pod_label_multigres_com_{{ . }}
{{- end }}
{{- end -}}

{{/* Where clusters are. */}}
{{- define "multigres-operator.dataPlaneNamespaces" -}}
namespaceSelector:
  {{- if .Values.watch.namespaces }}
  matchNames:
    {{- toYaml .Values.watch.namespaces | nindent 4 }}
  {{- else }}
  any: true
  {{- end }}
{{- end -}}
