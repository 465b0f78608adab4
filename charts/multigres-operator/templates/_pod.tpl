{{/* What the two Deployments have in common. Each of these takes (dict "component" <controller or admission> "root" $). */}}

{{/* The pod besides its containers and volumes. */}}
{{- define "multigres-operator.podSettings" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $settings := index .root.Values .component -}}
{{- $hostNetwork := default false $settings.hostNetwork -}}
serviceAccountName: {{ include (printf "multigres-operator.%sServiceAccount" $component) $root }}
{{- if not $settings.serviceAccount.automountToken }}
automountServiceAccountToken: false
{{- end }}
{{- with $root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $settings.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ $settings.terminationGracePeriodSeconds }}
{{- with default $root.Values.global.priorityClassName $settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $settings.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if $hostNetwork }}
hostNetwork: true
{{- end }}
{{- with default (ternary "ClusterFirstWithHostNet" "" $hostNetwork) $settings.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with $settings.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "multigres-operator.nodes" . }}
{{- with $settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $settings.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml $settings.topologySpreadConstraints | nindent 2 }}
{{- else if kindIs "slice" $settings.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "multigres-operator.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
  {{- end }}
{{- end }}
{{- with $settings.extraInitContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How often a probe asks, and when it counts; what is not said is left to Kubernetes. Takes the values of one probe. */}}
{{- define "multigres-operator.probe" -}}
{{- range $name := list "initialDelaySeconds" "periodSeconds" "timeoutSeconds" "failureThreshold" }}
{{- with index $ $name }}
{{ $name }}: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Which nodes it may be put on. Also for the pods of hooks. */}}
{{- define "multigres-operator.nodes" -}}
{{- $settings := index .root.Values .component -}}
{{- $global := .root.Values.global -}}
{{- with merge (dict) (default (dict) $settings.nodeSelector) $global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat (default (list) $settings.tolerations) $global.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The variables that the chart sets, as YAML. */}}
{{- define "multigres-operator.env" -}}
- name: POD_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
{{- if eq .component "controller" }}
# Its few threads need no heaps of their own; one heap is a megabyte less.
- { name: MALLOC_ARENA_MAX, value: "1" }
{{- end }}
{{- include "multigres-operator.imageEnv" .root }}
{{- with include "multigres-operator.tracingEnv" (dict "root" .root "dataPlane" (and (eq .component "controller") .root.Values.tracing.dataPlane)) | trim }}
{{ . }}
{{- end }}
{{- end -}}

{{/* Variables of the container: those of the chart, then those of the user. */}}
{{- define "multigres-operator.containerEnv" -}}
{{- $settings := index .root.Values .component -}}
env:
  {{- include "multigres-operator.env" . | nindent 2 }}
  {{- with $settings.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $settings.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Flags about logs. */}}
{{- define "multigres-operator.loggingArgs" -}}
{{- with merge (dict) (index .root.Values .component).logging .root.Values.logging -}}
- --zap-devel=false
- --zap-log-level={{ .level }}
- --zap-encoder={{ .format }}
- --zap-stacktrace-level={{ .stacktraceLevel }}
{{- end }}
{{- end -}}

{{/* Whether certificates of the webhook are mounted. Not empty means yes. */}}
{{- define "multigres-operator.mountsCertificate" -}}
{{- if and (eq .component "admission") (ne .root.Values.certificates.mode "self-signed") }}yes{{ end -}}
{{- end -}}

{{- define "multigres-operator.volumeMounts" -}}
{{- if include "multigres-operator.mountsCertificate" . }}
- { name: certificate, mountPath: /var/run/secrets/webhook, readOnly: true }
{{- end }}
{{- if include "multigres-operator.metricsSecret" .root }}
- { name: metrics-certificate, mountPath: /var/run/secrets/metrics, readOnly: true }
{{- end }}
{{- if include "multigres-operator.mountsTracing" .root }}
- { name: tracing-certificates, mountPath: /var/run/secrets/tracing, readOnly: true }
{{- end }}
{{- with (index .root.Values .component).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "multigres-operator.volumes" -}}
{{- with include "multigres-operator.metricsSecret" .root }}
- name: metrics-certificate
  secret: { secretName: {{ . }} }
{{- end }}
{{- if include "multigres-operator.mountsTracing" .root }}
- name: tracing-certificates
  projected:
    sources:
      {{- with .root.Values.tracing.tls }}
      {{- if .caSecret.name }}
      - secret: { name: {{ .caSecret.name }}, items: [{ key: {{ .caSecret.key }}, path: ca.crt }] }
      {{- end }}
      {{- with .clientSecret.name }}
      - secret: { name: {{ . }}, items: [{ key: tls.crt, path: tls.crt }, { key: tls.key, path: tls.key }] }
      {{- end }}
      {{- end }}
{{- end }}
{{- if include "multigres-operator.mountsCertificate" . }}
- name: certificate
  secret:
    {{- if eq .root.Values.certificates.mode "cert-manager" }}
    secretName: {{ include "multigres-operator.certManagerSecret" .root }}
    {{- else }}
    secretName: {{ .root.Values.certificates.provided.secretName }}
    items:
      - { key: tls.crt, path: tls.crt }
      - { key: tls.key, path: tls.key }
      - { key: {{ .root.Values.certificates.provided.caKey }}, path: ca.crt }
    {{- end }}
{{- end }}
{{- with (index .root.Values .component).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "multigres-operator.podDisruptionBudget" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- with (index .root.Values .component).podDisruptionBudget -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "multigres-operator.fullname" $root }}-{{ ternary "controller-manager" "admission" (eq $component "controller") }}
  namespace: {{ include "multigres-operator.namespace" $root }}
  labels:
    {{- include "multigres-operator.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
  {{- include "multigres-operator.annotations" (dict "root" $root) }}
spec:
  {{- if not (kindIs "invalid" .minAvailable) }}
  minAvailable: {{ .minAvailable }}
  {{- else }}
  maxUnavailable: {{ .maxUnavailable }}
  {{- end }}
  {{- if and .unhealthyPodEvictionPolicy (include "multigres-operator.evictionPolicyServed" $root) }}
  unhealthyPodEvictionPolicy: {{ .unhealthyPodEvictionPolicy }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "multigres-operator.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ $component }}
{{- end }}
{{- end -}}
