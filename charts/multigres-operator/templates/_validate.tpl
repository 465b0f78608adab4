{{/* Wrong combinations stop here, each with its remedy. */}}
{{- define "multigres-operator.validate" -}}
{{- if has (include "multigres-operator.namespace" .) (list "kube-system" "kube-public" "kube-node-lease") -}}
{{- fail (printf "namespace %q belongs to Kubernetes itself: install with --namespace multigres-operator --create-namespace" (include "multigres-operator.namespace" .)) -}}
{{- end -}}
{{- if and (gt (int .Values.controller.replicas) 1) (not .Values.controller.leaderElection.enabled) -}}
{{- fail (printf "controller.replicas is %d but controller.leaderElection.enabled is false, so all of them would write: set controller.leaderElection.enabled=true or controller.replicas=1" (int .Values.controller.replicas)) -}}
{{- end -}}
{{- $own := list "helm.sh/chart" "control-plane" -}}
{{- range list "name" "instance" "component" "version" "part-of" "managed-by" -}}{{- $own = append $own (printf "app.kubernetes.io/%s" .) -}}{{- end -}}
{{- range $where, $labels := dict "global.commonLabels" .Values.global.commonLabels "controller.podLabels" .Values.controller.podLabels "admission.podLabels" .Values.admission.podLabels "controller.serviceAccount.labels" .Values.controller.serviceAccount.labels "admission.serviceAccount.labels" .Values.admission.serviceAccount.labels "admission.service.labels" .Values.admission.service.labels "metrics.service.labels" .Values.metrics.service.labels "webhooks.labels" .Values.webhooks.labels -}}
{{- range $name, $_ := $labels -}}
{{- if has $name $own -}}
{{- fail (printf "%s has %s, which belongs to the chart: choose another name for your label" $where $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.global.commonAnnotations -}}
{{- if or (hasPrefix "helm.sh/" $name) (eq $name "kubectl.kubernetes.io/default-container") -}}
{{- fail (printf "global.commonAnnotations has %s, which belongs to the chart: remove it" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.watch.namespaces .Values.watch.excludeNamespaces -}}
{{- fail "watch.namespaces and watch.excludeNamespaces are both set: leave the excluded ones out of watch.namespaces, and remove watch.excludeNamespaces" -}}
{{- end -}}
{{- if and .Values.tests.enabled .Values.admission.enabled (has (include "multigres-operator.namespace" .) .Values.watch.excludeNamespaces) -}}
{{- fail "watch.excludeNamespaces has the namespace of the operator, where `helm test` asks: remove it there, or set tests.enabled=false" -}}
{{- end -}}
{{- with .Values.controller -}}
{{- if and .strategy (not .leaderElection.enabled) (ne (default "" .strategy.type) "Recreate") -}}
{{- if not (has (toString (dig "rollingUpdate" "maxSurge" "" .strategy)) (list "0" "0%")) -}}
{{- fail "controller.strategy lets two controllers run at once during an upgrade, and without a Lease both would write: set controller.strategy.type=Recreate or rollingUpdate.maxSurge=0, or controller.leaderElection.enabled=true" -}}
{{- end -}}
{{- end -}}
{{- if and .leaderElection.leaseName (not .leaderElection.enabled) -}}
{{- fail "controller.leaderElection.leaseName is set, but there is no Lease: set controller.leaderElection.enabled=true, or remove it" -}}
{{- end -}}
{{- end -}}
{{- if eq (include "multigres-operator.lease" .) (include "multigres-operator.rotatorLease" .) -}}
{{- fail (printf "controller.leaderElection.leaseName is %s, the Lease of the admission service: choose another name" (include "multigres-operator.lease" .)) -}}
{{- end -}}
{{- with .Values.tracing -}}
{{- if and (or .tls.caSecret.name .tls.clientSecret.name) (not (hasPrefix "https://" .endpoint)) -}}
{{- fail "tracing.tls names Secrets, but tracing.endpoint is no https address that they could secure: set tracing.endpoint to one, or remove them" -}}
{{- end -}}
{{- end -}}
{{- with .Values.controller.leaderElection -}}
{{- $renew := int (include "multigres-operator.seconds" .renewDeadline) -}}
{{- if gt (mul 3 $renew) (mul 2 (int (include "multigres-operator.seconds" .leaseDuration))) -}}
{{- fail (printf "controller.leaderElection.leaseDuration=%s is too short for renewDeadline=%s, so that two could lead for a moment: raise it to one and a half renewDeadline" .leaseDuration .renewDeadline) -}}
{{- end -}}
{{- if ge (mul 2 (int (include "multigres-operator.seconds" .retryPeriod))) $renew -}}
{{- fail (printf "controller.leaderElection.retryPeriod=%s leaves a leader one try within renewDeadline=%s: lower it below half of renewDeadline" .retryPeriod .renewDeadline) -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.controller.replicas) 1 -}}
{{- include "multigres-operator.validateBudget" (dict "component" "controller" "replicas" (int .Values.controller.replicas) "root" .) -}}
{{- end -}}
{{- include "multigres-operator.validateExtras" (dict "component" "controller" "container" "manager" "root" .) -}}
{{- if and .Values.networkPolicy.egress.enabled (not .Values.networkPolicy.enabled) -}}
{{- fail "networkPolicy.egress.enabled=true, but there are no network policies: set networkPolicy.enabled=true, too" -}}
{{- end -}}
{{- if and .Values.apiPriorityAndFairness.enabled (not (include "multigres-operator.flowSchemasServed" .)) -}}
{{- fail (printf "apiPriorityAndFairness.enabled=true needs the FlowSchemas of Kubernetes 1.29, this is %s: set it to false" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and .Values.metrics.enabled (eq (int .Values.metrics.port) 8081) -}}
{{- fail "metrics.port is 8081, the port of the probes: set another one, such as metrics.port=8080" -}}
{{- end -}}
{{- with .Values.metrics -}}
{{- if not (and .enabled .secure) -}}
{{- if .certificate.secretName -}}
{{- fail "metrics.certificate.secretName is set, but metrics are not served by HTTPS: set metrics.secure=true (and metrics.enabled=true), or remove it" -}}
{{- end -}}
{{- if .readers -}}
{{- fail "metrics.readers are named, but everybody may read the metrics: set metrics.secure=true (and metrics.enabled=true), or remove them" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tracing.dataPlane (not .Values.tracing.endpoint) -}}
{{- fail "tracing.dataPlane=true, but there is no endpoint that clusters could inherit: set tracing.endpoint, or tracing.dataPlane=false" -}}
{{- end -}}
{{- include "multigres-operator.validateChildProtection" . -}}
{{- if .Values.admission.enabled -}}
{{- include "multigres-operator.validateAdmission" . -}}
{{- include "multigres-operator.validateCertificates" . -}}
{{- end -}}
{{- end -}}

{{- define "multigres-operator.validateChildProtection" -}}
{{- $protection := .Values.webhooks.childProtection -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- $mode := include "multigres-operator.childProtection" . -}}
{{- if and (has $protection.mode (list "policy" "both")) (not (include "multigres-operator.policiesServed" .)) -}}
{{- fail (printf "webhooks.childProtection.mode=%s needs the ValidatingAdmissionPolicies of Kubernetes 1.30, this is %s: set webhooks.childProtection.mode=auto" $protection.mode $version) -}}
{{- end -}}
{{- if and (has $protection.mode (list "webhook" "both")) (not .Values.admission.enabled) -}}
{{- fail (printf "webhooks.childProtection.mode=%s needs the admission service: set admission.enabled=true, or webhooks.childProtection.mode=policy, which works without it" $protection.mode) -}}
{{- end -}}
{{- if and (eq $mode "webhook") (eq $protection.failurePolicy "Ignore") (include "multigres-operator.matchConditionsServed" .) -}}
{{- fail "webhooks.childProtection.failurePolicy=Ignore leaves the child kinds open to everyone while no admission pod answers: set it to Fail, or webhooks.childProtection.mode=both (Kubernetes 1.30) so that a policy protects them" -}}
{{- end -}}
{{- end -}}

{{- define "multigres-operator.validateAdmission" -}}
{{- $admission := .Values.admission -}}
{{- $scaling := $admission.autoscaling -}}
{{- $replicas := int $admission.replicas -}}
{{- if $scaling.enabled -}}
{{- $replicas = int $scaling.minReplicas -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "admission.autoscaling.minReplicas=%d is above maxReplicas=%d: raise maxReplicas or lower minReplicas" (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- if not (or $scaling.targetCPUUtilizationPercentage $scaling.targetMemoryUtilizationPercentage $scaling.metrics) -}}
{{- fail "admission.autoscaling has nothing to scale by: set targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage or metrics" -}}
{{- end -}}
{{- else if lt $replicas 1 -}}
{{- fail "admission.replicas=0 leaves webhooks that nobody answers, so nothing could be written: set admission.replicas=2, or admission.enabled=false to do without admission" -}}
{{- end -}}
{{- include "multigres-operator.validateBudget" (dict "component" "admission" "replicas" $replicas "root" .) -}}
{{- include "multigres-operator.validateExtras" (dict "component" "admission" "container" "admission" "root" .) -}}
{{- $used := list 8081 -}}
{{- if .Values.metrics.enabled -}}{{- $used = append $used (int .Values.metrics.port) -}}{{- end -}}
{{- if has (int $admission.containerPort) $used -}}
{{- fail (printf "admission.containerPort=%d is taken by the probes or the metrics: set another one, such as admission.containerPort=9443" (int $admission.containerPort)) -}}
{{- end -}}
{{- $deadline := int (include "multigres-operator.seconds" $admission.reviewDeadline) -}}
{{- $delay := int (include "multigres-operator.seconds" $admission.shutdownDelay) -}}
{{- $linger := int (include "multigres-operator.seconds" $admission.linger) -}}
{{- $least := add $deadline $delay $linger -}}
{{- if le (int $admission.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "admission.terminationGracePeriodSeconds=%d would kill a pod that still serves: it has to exceed shutdownDelay, linger and reviewDeadline together, %d s" (int $admission.terminationGracePeriodSeconds) $least) -}}
{{- end -}}
{{- if and (le (int .Values.webhooks.defaults.timeoutSeconds) $deadline) (has (include "multigres-operator.childProtection" .) (list "webhook" "both")) -}}
{{- fail (printf "admission.reviewDeadline=%s is not below webhooks.defaults.timeoutSeconds=%d, which the webhooks of child kinds have, so the API server would give up first: lower admission.reviewDeadline or raise webhooks.defaults.timeoutSeconds" $admission.reviewDeadline (int .Values.webhooks.defaults.timeoutSeconds)) -}}
{{- end -}}
{{- range $key := list "mutateCluster" "validateCluster" "coreTemplate" "cellTemplate" "shardTemplate" "backup" -}}
{{- $hook := include "multigres-operator.hookSettings" (dict "key" $key "root" $) | fromJson -}}
{{- if ge $deadline (int $hook.timeoutSeconds) -}}
{{- fail (printf "admission.reviewDeadline=%s is not below timeoutSeconds=%d of webhook %s, so the API server would give up first: lower admission.reviewDeadline or raise webhooks.defaults.timeoutSeconds" $admission.reviewDeadline (int $hook.timeoutSeconds) $key) -}}
{{- end -}}
{{- if and $hook.matchConditions (not (include "multigres-operator.matchConditionsServed" $)) -}}
{{- fail (printf "matchConditions of webhook %s need Kubernetes 1.28, this is %s: remove them from webhooks.defaults and webhooks.overrides" $key $.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- if eq (include "multigres-operator.admissionServiceAccount" .) (include "multigres-operator.controllerServiceAccount" .) -}}
{{- fail "admission and controller have the same ServiceAccount, so the controller could change the webhook configurations: give them different names in admission.serviceAccount.name and controller.serviceAccount.name" -}}
{{- end -}}
{{- end -}}

{{/* A budget that says one thing, and lets a node be drained; takes (dict "component" "replicas" "root"). */}}
{{- define "multigres-operator.validateBudget" -}}
{{- $replicas := .replicas -}}
{{- $name := printf "%s.podDisruptionBudget" .component -}}
{{- with (index .root.Values .component).podDisruptionBudget -}}
{{- if .enabled -}}
{{- if eq (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) -}}
{{- fail (printf "%s needs exactly one of minAvailable and maxUnavailable: set the other one to null" $name) -}}
{{- end -}}
{{- if and (not (kindIs "invalid" .minAvailable)) (not (kindIs "string" .minAvailable)) (ge (int .minAvailable) $replicas) -}}
{{- fail (printf "%s.minAvailable=%d with %d replicas would block every node drain: lower it, or run more replicas" $name (int .minAvailable) $replicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What users add to a pod beside what the chart puts there; takes (dict "component" "container" <name of the chart's container> "root"). */}}
{{- define "multigres-operator.validateExtras" -}}
{{- $component := .component -}}
{{- $container := .container -}}
{{- $settings := index .root.Values $component -}}
{{- $set := list -}}
{{- range include "multigres-operator.env" . | fromYamlArray -}}{{- $set = append $set .name -}}{{- end -}}
{{- range $settings.extraEnv -}}
{{- if has .name $set -}}
{{- fail (printf "%s.extraEnv has %s, which is set already: remove it, and change the value of the chart that sets it" $component .name) -}}
{{- end -}}
{{- $set = append $set .name -}}
{{- end -}}
{{- $places := list -}}
{{- range $settings.extraVolumeMounts -}}{{- $places = append $places (trimSuffix "/" .mountPath) -}}{{- end -}}
{{- if not (or $settings.serviceAccount.automountToken (has "/var/run/secrets/kubernetes.io/serviceaccount" $places)) -}}
{{- fail (printf "%s.serviceAccount.automountToken=false, and nothing else brings a token: mount one at /var/run/secrets/kubernetes.io/serviceaccount by %s.extraVolumes and %s.extraVolumeMounts" $component $component $component) -}}
{{- end -}}
{{- range $settings.extraVolumes -}}
{{- if has .name (list "certificate" "metrics-certificate" "tracing-certificates") -}}
{{- fail (printf "%s.extraVolumes has %s, a name of the chart's own: give it another one" $component .name) -}}
{{- end -}}
{{- end -}}
{{- range concat $settings.extraContainers $settings.extraInitContainers -}}
{{- if eq .name $container -}}
{{- fail (printf "%s.extraContainers or extraInitContainers has %s, the name of the operator's container: give it another one" $component .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "multigres-operator.validateCertificates" -}}
{{- $certificates := .Values.certificates -}}
{{- $mode := $certificates.mode -}}
{{- $manager := $certificates.certManager -}}
{{- if and (eq $mode "provided") $certificates.extraDnsNames -}}
{{- fail "certificates.extraDnsNames are set, but the certificate is yours: put the names into it, and remove certificates.extraDnsNames" -}}
{{- end -}}
{{- if and (ne $mode "provided") $certificates.provided.secretName -}}
{{- fail (printf "certificates.provided.secretName is set, but certificates.mode=%s does not use it: set certificates.mode=provided or remove it" $mode) -}}
{{- end -}}
{{- if and (ne $mode "cert-manager") $manager.issuerRef -}}
{{- fail (printf "certificates.certManager.issuerRef is set, but certificates.mode=%s does not use it: set certificates.mode=cert-manager or remove it" $mode) -}}
{{- end -}}
{{- $own := list $certificates.secretName (include "multigres-operator.caSecret" .) -}}
{{- if eq (index $own 0) (index $own 1) -}}
{{- fail "certificates.secretName and certificates.caSecretName are the same: the key of the authority has a Secret of its own; give them different names" -}}
{{- end -}}
{{- if eq $mode "self-signed" -}}
{{- with $certificates.selfSigned -}}
{{- $renew := int (include "multigres-operator.seconds" .renewBefore) -}}
{{- range $name, $duration := dict "caDuration" .caDuration "serverDuration" .serverDuration -}}
{{- if ge $renew (int (include "multigres-operator.seconds" $duration)) -}}
{{- fail (printf "certificates.selfSigned.renewBefore is not below %s=%s, so certificates would be renewed without end: lower renewBefore" $name $duration) -}}
{{- end -}}
{{- end -}}
{{- if lt (int (include "multigres-operator.seconds" .caOverlap)) (mul 2 (int (include "multigres-operator.seconds" .checkInterval))) -}}
{{- fail (printf "certificates.selfSigned.caOverlap=%s is shorter than two checks: raise it to at least twice checkInterval=%s" .caOverlap .checkInterval) -}}
{{- end -}}
{{- end -}}
{{- else if eq $mode "cert-manager" -}}
{{- if not (.Capabilities.APIVersions.Has "cert-manager.io/v1") -}}
{{- fail "certificates.mode=cert-manager, but the server has no API cert-manager.io/v1: install cert-manager first, or set certificates.mode=self-signed; to render without a server add --api-versions cert-manager.io/v1" -}}
{{- end -}}
{{- if and $manager.issuerRef (not $manager.issuerRef.name) -}}
{{- fail "certificates.certManager.issuerRef has no name: set certificates.certManager.issuerRef.name, or leave issuerRef empty to let the chart make an issuer" -}}
{{- end -}}
{{- if not (or $manager.createCA $manager.issuerRef) -}}
{{- fail "certificates.certManager.createCA=false needs an issuer of yours: set certificates.certManager.issuerRef, or createCA=true" -}}
{{- end -}}
{{- $renew := int (include "multigres-operator.seconds" $manager.renewBefore) -}}
{{- range $name, $duration := dict "caDuration" $manager.caDuration "duration" $manager.duration -}}
{{- if ge $renew (int (include "multigres-operator.seconds" $duration)) -}}
{{- fail (printf "certificates.certManager.renewBefore is not below %s=%s: lower renewBefore" $name $duration) -}}
{{- end -}}
{{- end -}}
{{- $key := $manager.privateKey -}}
{{- if or (and (eq $key.algorithm "RSA") (lt (int $key.size) 2048)) (and (eq $key.algorithm "ECDSA") (gt (int $key.size) 521)) -}}
{{- fail (printf "certificates.certManager.privateKey: there is no %s key of size %d: set size to 256, 384 or 521 with ECDSA, and to 2048, 4096 or 8192 with RSA" $key.algorithm (int $key.size)) -}}
{{- end -}}
{{- if has (include "multigres-operator.certManagerSecret" .) $own -}}
{{- fail "certificates.certManager.secretName is a Secret of the mode self-signed, and both would write it during a change of modes: give it another name" -}}
{{- end -}}
{{- else -}}
{{- if not $certificates.provided.secretName -}}
{{- fail "certificates.mode=provided needs your Secret: set certificates.provided.secretName to a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if has $certificates.provided.secretName $own -}}
{{- fail "certificates.provided.secretName is a Secret that the mode self-signed writes and that disappears with the Deployment: give yours another name" -}}
{{- end -}}
{{- end -}}
{{- end -}}
