{{/* What the version of the server decides about what is rendered: the only place that compares it. Not empty means yes. */}}

{{/* Whether webhooks may have match conditions. */}}
{{- define "multigres-operator.matchConditionsServed" -}}
{{- if semverCompare ">=1.28.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end -}}

{{/* Whether there are ValidatingAdmissionPolicies. */}}
{{- define "multigres-operator.policiesServed" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end -}}

{{/* Whether there are FlowSchemas of version 1. */}}
{{- define "multigres-operator.flowSchemasServed" -}}
{{- if semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end -}}

{{/* Whether disruption budgets may say what happens to unhealthy pods. */}}
{{- define "multigres-operator.evictionPolicyServed" -}}
{{- if semverCompare ">=1.27.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end -}}
