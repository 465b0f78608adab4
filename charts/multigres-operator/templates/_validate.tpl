{{/* Wrong combinations stop here, each with its remedy. */}}
{{- define "multigres-operator.validate" -}}
{{- if has .Release.Namespace (list "kube-system" "kube-public" "kube-node-lease") -}}
{{- fail (printf "namespace %q belongs to Kubernetes itself: install with --namespace multigres-operator --create-namespace" .Release.Namespace) -}}
{{- end -}}
{{- if and (gt (int .Values.controller.replicas) 1) (not .Values.controller.leaderElection.enabled) -}}
{{- fail (printf "controller.replicas is %d but controller.leaderElection.enabled is false, so all of them would write: set controller.leaderElection.enabled=true or controller.replicas=1" (int .Values.controller.replicas)) -}}
{{- end -}}
{{- end -}}
