{{/* What the tests of a release have in common. `helm test --logs` asks for the logs of a Pod of the name of every object of a test, so all of them
     are called like its Pod. */}}

{{/* Labels and annotations of an object of a test, to which more annotations may be added. */}}
{{- define "multigres-operator.testMetadata" }}
  labels:
    {{- include "multigres-operator.labels" . | nindent 4 }}
    app.kubernetes.io/component: test
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    {{- with .Values.global.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Whether the metrics are tested: secured ones only where there is the role that the test is given. Not empty means yes. */}}
{{- define "multigres-operator.metricsTested" -}}
{{- with .Values }}{{ if and .tests.enabled .metrics.enabled (or .rbac.create (not .metrics.secure)) }}yes{{ end }}{{ end -}}
{{- end -}}
