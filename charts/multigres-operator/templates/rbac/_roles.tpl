{{/* A ClusterRole and its binding, or nothing without rules; takes (dict "name" "account" "rules" "component" "root"). */}}
{{- define "multigres-operator.clusterRole" -}}
{{- if .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}-role
  labels:
    {{- include "multigres-operator.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- include "multigres-operator.annotations" (dict "root" .root) }}
rules:
  {{- .rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}-rolebinding
  labels:
    {{- include "multigres-operator.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- include "multigres-operator.annotations" (dict "root" .root) }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .name }}-role
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ include "multigres-operator.namespace" .root }}
{{- end }}
{{- end -}}

{{/* A Role and its binding in each watched namespace; nothing where all are watched. Takes the same. */}}
{{- define "multigres-operator.namespacedRoles" -}}
{{- range $namespace := .root.Values.watch.namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $.name }}-role
  namespace: {{ $namespace }}
  labels:
    {{- include "multigres-operator.labels" $.root | nindent 4 }}
    app.kubernetes.io/component: {{ $.component }}
  {{- include "multigres-operator.annotations" (dict "root" $.root) }}
rules:
  {{- $.rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $.name }}-rolebinding
  namespace: {{ $namespace }}
  labels:
    {{- include "multigres-operator.labels" $.root | nindent 4 }}
    app.kubernetes.io/component: {{ $.component }}
  {{- include "multigres-operator.annotations" (dict "root" $.root) }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $.name }}-role
subjects:
  - kind: ServiceAccount
    name: {{ $.account }}
    namespace: {{ include "multigres-operator.namespace" $.root }}
{{- end }}
{{- end -}}

{{/* The bundle of authorities, in exactly these two objects. Lists and watches have to select them by name. */}}
{{- define "multigres-operator.configurationRules" -}}
{{- range $resource, $name := dict "mutatingwebhookconfigurations" (include "multigres-operator.mutatingConfiguration" .) "validatingwebhookconfigurations" (include "multigres-operator.validatingConfiguration" .) }}
# Watched by `certificate/watch.rs`, written by `certificate/configuration.rs`.
- apiGroups: [admissionregistration.k8s.io]
  resources: [{{ $resource }}]
  resourceNames: [{{ $name }}]
  verbs: [get, list, watch, patch]
{{- end }}
{{- end -}}
