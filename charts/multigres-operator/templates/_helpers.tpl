{{- define "multigres-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 28 | trimSuffix "-" -}}
{{- end -}}

{{- define "multigres-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 28 | trimSuffix "-" -}}
{{- else if contains (include "multigres-operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 28 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "multigres-operator.name" .) | trunc 28 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Where the objects of the release are. */}}
{{- define "multigres-operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "multigres-operator.selector" -}}
app.kubernetes.io/name: {{ include "multigres-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "multigres-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "multigres-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: multigres-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of an object, from the line break before them; takes (dict "own" <those of this object, if any> "root" $). */}}
{{- define "multigres-operator.annotations" -}}
{{- with merge (dict) (default (dict) .own) .root.Values.global.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* The Lease of the controller. */}}
{{- define "multigres-operator.lease" -}}
{{- default "multigres-operator.multigres.com" .Values.controller.leaderElection.leaseName -}}
{{- end -}}

{{/* Type and families of addresses of a Service; takes its values. */}}
{{- define "multigres-operator.serviceSettings" -}}
{{- if ne .type "ClusterIP" }}
type: {{ .type }}
{{- end }}
{{- with .ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end -}}

{{- define "multigres-operator.controllerServiceAccount" -}}
{{- if .Values.controller.serviceAccount.create -}}
{{- default (printf "%s-controller-manager" (include "multigres-operator.fullname" .)) .Values.controller.serviceAccount.name -}}
{{- else -}}
{{- required "controller.serviceAccount.name must name an existing ServiceAccount when controller.serviceAccount.create is false" .Values.controller.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* One image reference; takes (dict "image" <block> "root" $). */}}
{{- define "multigres-operator.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "multigres-operator.admissionServiceAccount" -}}
{{- if .Values.admission.serviceAccount.create -}}
{{- default (printf "%s-admission" (include "multigres-operator.fullname" .)) .Values.admission.serviceAccount.name -}}
{{- else -}}
{{- required "admission.serviceAccount.name must name an existing ServiceAccount when admission.serviceAccount.create is false" .Values.admission.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "multigres-operator.webhookService" -}}
{{- default (printf "%s-webhook-service" (include "multigres-operator.fullname" .)) .Values.admission.service.name -}}
{{- end -}}

{{- define "multigres-operator.mutatingConfiguration" -}}
{{- default (printf "%s-mutating-webhook-configuration" (include "multigres-operator.fullname" .)) .Values.webhooks.mutatingName -}}
{{- end -}}

{{- define "multigres-operator.validatingConfiguration" -}}
{{- default (printf "%s-validating-webhook-configuration" (include "multigres-operator.fullname" .)) .Values.webhooks.validatingName -}}
{{- end -}}

{{- define "multigres-operator.caSecret" -}}
{{- default (printf "%s-ca-secret" (include "multigres-operator.fullname" .)) .Values.certificates.caSecretName -}}
{{- end -}}

{{- define "multigres-operator.rotatorLease" -}}
{{- include "multigres-operator.fullname" . -}}-cert-rotator
{{- end -}}

{{/* The Secret with the serving certificate of the mode cert-manager. */}}
{{- define "multigres-operator.certManagerSecret" -}}
{{- default (printf "%s-webhook-server-cert" (include "multigres-operator.fullname" .)) .Values.certificates.certManager.secretName -}}
{{- end -}}

{{/* Seconds of a duration such as 1h30m. */}}
{{- define "multigres-operator.seconds" -}}
{{- $sum := 0 -}}
{{- range $unit, $seconds := dict "h" 3600 "m" 60 "s" 1 -}}
{{- $part := regexFind (printf "[0-9]+%s" $unit) $ -}}
{{- $sum = add $sum (mul $seconds (int64 (trimSuffix $unit $part))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* Flags of the metrics' endpoint. */}}
{{- define "multigres-operator.metricsArgs" -}}
{{- with .Values.metrics -}}
- --metrics-bind-address={{ ternary (printf "0.0.0.0:%d" (int .port)) "0" .enabled }}
- --metrics-secure={{ .secure }}
{{- if and .enabled .secure .certificate.secretName }}
- --metrics-cert-path=/var/run/secrets/metrics
{{- end }}
{{- end }}
{{- end -}}

{{/* The Secret with the certificate of the metrics; empty without one. */}}
{{- define "multigres-operator.metricsSecret" -}}
{{- with .Values.metrics }}{{ if and .enabled .secure }}{{ .certificate.secretName }}{{ end }}{{ end -}}
{{- end -}}

{{/* Environment that sends spans; takes (dict "root" $ "dataPlane" <whether clusters inherit the endpoint>). The address for spans alone
     is the operator's own: what clusters inherit is another variable. Sampler and attributes are inherited by clusters with an endpoint
     of their own, too. */}}
{{- define "multigres-operator.tracingEnv" -}}
{{- $dataPlane := .dataPlane -}}
{{- with .root.Values.tracing -}}
{{- if .endpoint }}
{{- if $dataPlane }}
- { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }} }
- { name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }} }
{{- else }}
- { name: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, value: {{ ternary (printf "%s/v1/traces" (trimSuffix "/" .endpoint)) .endpoint (eq .protocol "http/protobuf") | quote }} }
- { name: OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, value: {{ .protocol | quote }} }
{{- end }}
{{- with .sampler }}
- { name: OTEL_TRACES_SAMPLER, value: {{ . | quote }} }
{{- end }}
{{- with toString .samplerArg }}
- { name: OTEL_TRACES_SAMPLER_ARG, value: {{ . | quote }} }
{{- end }}
{{- if .headersSecret.name }}
- name: OTEL_EXPORTER_OTLP_TRACES_HEADERS
  valueFrom: { secretKeyRef: { name: {{ .headersSecret.name }}, key: {{ .headersSecret.key }} } }
{{- end }}
{{- with .tls.caSecret.name }}
- { name: OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE, value: /var/run/secrets/tracing/ca.crt }
{{- end }}
{{- with .tls.clientSecret.name }}
- { name: OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE, value: /var/run/secrets/tracing/tls.crt }
- { name: OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY, value: /var/run/secrets/tracing/tls.key }
{{- end }}
{{- with .resourceAttributes }}
{{- $pairs := list }}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end }}
- { name: OTEL_RESOURCE_ATTRIBUTES, value: {{ join "," $pairs | quote }} }
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Whether the connection to the collector of spans is secured by files of the user. Not empty means yes. */}}
{{- define "multigres-operator.mountsTracing" -}}
{{- with .Values.tracing -}}{{- if and .endpoint (or .tls.caSecret.name .tls.clientSecret.name) }}yes{{ end -}}{{- end -}}
{{- end -}}

{{/* Resources of the exporter as JSON, every amount as a text; empty where none are set. */}}
{{- define "multigres-operator.exporterResources" -}}
{{- $resources := dict -}}
{{- range $part, $amounts := .Values.operands.exporter.resources -}}
{{- $texts := dict -}}
{{- range $name, $amount := $amounts -}}{{- $_ := set $texts $name (toString $amount) -}}{{- end -}}
{{- $_ := set $resources $part $texts -}}
{{- end -}}
{{- if $resources -}}{{- toJson $resources -}}{{- end -}}
{{- end -}}

{{/* Environment that names the images of the data plane. */}}
{{- define "multigres-operator.imageEnv" -}}
{{- range $key, $variable := dict "postgres" "POSTGRES" "multiadmin" "MULTIADMIN" "multiadminWeb" "MULTIADMIN_WEB" "multiorch" "MULTIORCH" "multipooler" "MULTIPOOLER" "multigateway" "MULTIGATEWAY" "etcd" "ETCD" "postgresExporter" "POSTGRES_EXPORTER" }}
{{- with index $.Values.operands.images $key }}
- name: MULTIGRES_IMAGE_{{ $variable }}
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}
