{{/* What webhooks.childProtection.mode comes to: webhook, policy, both or none. */}}
{{- define "multigres-operator.childProtection" -}}
{{- $mode := .Values.webhooks.childProtection.mode -}}
{{- if ne $mode "auto" -}}
{{- $mode -}}
{{- else if not .Values.admission.enabled -}}
none
{{- else if include "multigres-operator.policiesServed" . -}}
both
{{- else -}}
webhook
{{- end -}}
{{- end -}}

{{- define "multigres-operator.controllerUser" -}}
system:serviceaccount:{{ include "multigres-operator.namespace" . }}:{{ include "multigres-operator.controllerServiceAccount" . }}
{{- end -}}

{{/* Who may write child kinds besides the controller, as a JSON list. */}}
{{- define "multigres-operator.childWriters" -}}
{{- concat (list "system:serviceaccount:kube-system:generic-garbage-collector" "system:serviceaccount:kube-system:namespace-controller" "system:kube-controller-manager") .Values.webhooks.childProtection.allowedUsers | uniq | toJson -}}
{{- end -}}

{{/* The settings of one webhook; takes (dict "key" <name in overrides> "root" $). Booleans may be overridden with false, which merge functions skip. */}}
{{- define "multigres-operator.hookSettings" -}}
{{- $settings := deepCopy .root.Values.webhooks.defaults -}}
{{- range $name, $value := default (dict) (index .root.Values.webhooks.overrides .key) -}}
{{- $_ := set $settings $name $value -}}
{{- end -}}
{{- $settings | toJson -}}
{{- end -}}

{{/* Which namespaces are concerned: those that the user selects, of those that are watched; takes (dict "selector" "root"). */}}
{{- define "multigres-operator.namespaceSelector" -}}
{{- $selector := deepCopy (default (dict) .selector) -}}
{{- with .root.Values.watch.namespaces -}}
{{- $watched := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" . -}}
{{- $_ := set $selector "matchExpressions" (append (default (list) $selector.matchExpressions) $watched) -}}
{{- end -}}
{{- with .root.Values.watch.excludeNamespaces -}}
{{- $excluded := dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" . -}}
{{- $_ := set $selector "matchExpressions" (append (default (list) $selector.matchExpressions) $excluded) -}}
{{- end -}}
{{- if $selector -}}{{- toYaml $selector -}}{{- end -}}
{{- end -}}

{{/* CEL: the spec differs. Every part is guarded, because an error in a condition refuses the request. */}}
{{- define "multigres-operator.cel.spec" -}}
has(object.spec) != has(oldObject.spec) || (has(object.spec) && object.spec != oldObject.spec)
{{- end -}}

{{/* CEL: an annotation of ours differs. */}}
{{- define "multigres-operator.cel.annotations" -}}
{{- $new := "(has(object.metadata.annotations) ? object.metadata.annotations : {})" -}}
{{- $old := "(has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {})" -}}
!{{ $new }}.all(k, !k.startsWith("multigres.com/") || (k in {{ $old }} && {{ $new }}[k] == {{ $old }}[k])) || !{{ $old }}.all(k, !k.startsWith("multigres.com/") || k in {{ $new }})
{{- end -}}

{{/* CEL: labels, owners or finalizers differ. */}}
{{- define "multigres-operator.cel.ownership" -}}
{{- range $index, $field := list "labels" "ownerReferences" "finalizers" -}}
{{- if $index }} || {{ end -}}
has(object.metadata.{{ $field }}) != has(oldObject.metadata.{{ $field }}) || (has(object.metadata.{{ $field }}) && object.metadata.{{ $field }} != oldObject.metadata.{{ $field }})
{{- end -}}
{{- end -}}

{{- define "multigres-operator.condition.deleting" -}}
- name: not-being-deleted
  expression: >-
    request.operation != "UPDATE" || !has(object.metadata.deletionTimestamp)
{{- end -}}

{{/* Requests of others than the allowed writers of child kinds that change something. Also the policy's conditions. */}}
{{- define "multigres-operator.childConditions" -}}
{{- $groups := .Values.webhooks.childProtection.allowedGroups -}}
- name: not-an-allowed-writer
  expression: >-
    !(request.userInfo.username in {{ prepend (include "multigres-operator.childWriters" . | fromJsonArray) (include "multigres-operator.controllerUser" .) | toJson }}
    {{- if $groups }} || (has(request.userInfo.groups) && request.userInfo.groups.exists(g, g in {{ $groups | toJson }})){{ end }})
{{ include "multigres-operator.condition.deleting" . }}
- name: changes-something
  expression: >-
    request.operation != "UPDATE" || {{ include "multigres-operator.cel.spec" . }} || {{ include "multigres-operator.cel.annotations" . }} || {{ include "multigres-operator.cel.ownership" . }}
{{- end -}}

{{/* Conditions of a webhook for clusters and templates; takes (dict "settings" <hookSettings> "skipController" <bool> "root" $). */}}
{{- define "multigres-operator.rootConditions" -}}
{{- $root := .root -}}
{{- if .skipController }}
- name: not-the-controller
  expression: >-
    request.userInfo.username != {{ include "multigres-operator.controllerUser" $root | quote }}
{{- end }}
{{- if .settings.skipDeleting }}
{{ include "multigres-operator.condition.deleting" $root }}
{{- end }}
{{- if .settings.skipUnchanged }}
- name: changes-what-is-judged
  expression: >-
    request.operation != "UPDATE" || {{ include "multigres-operator.cel.spec" $root }} || {{ include "multigres-operator.cel.annotations" $root }}
{{- end }}
{{- with .settings.matchConditions }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
One webhook of a cluster or template; takes (dict "name" "key" "path" "resource" "operations" "skipController" "root").
There is no caBundle here, and there must never be one: its owner is the admission service.
*/}}
{{- define "multigres-operator.rootWebhook" -}}
{{- $settings := include "multigres-operator.hookSettings" . | fromJson -}}
- name: {{ .name }}
  admissionReviewVersions: [v1]
  sideEffects: None
  matchPolicy: Equivalent
  failurePolicy: {{ $settings.failurePolicy }}
  timeoutSeconds: {{ $settings.timeoutSeconds }}
  clientConfig:
    service:
      name: {{ include "multigres-operator.webhookService" .root }}
      namespace: {{ include "multigres-operator.namespace" .root }}
      path: {{ .path }}
      port: 443
  {{- with include "multigres-operator.namespaceSelector" (dict "selector" $settings.namespaceSelector "root" .root) }}
  namespaceSelector:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with $settings.objectSelector }}
  objectSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if include "multigres-operator.matchConditionsServed" .root }}
  {{- with include "multigres-operator.rootConditions" (dict "settings" $settings "skipController" .skipController "root" .root) | trim }}
  matchConditions:
    {{- . | nindent 4 }}
  {{- end }}
  {{- end }}
  rules:
    - apiGroups: [multigres.com]
      apiVersions: [v1alpha1]
      resources: [{{ .resource }}]
      operations: [{{ join ", " .operations }}]
      scope: Namespaced
{{- end -}}
