#!/usr/bin/env bash
# The chart renders with its supported values, a real API server accepts every object, wrong values are refused with a remedy, and what
# the webhooks let pass while nobody answers them is what should pass. Runs itself again below a control plane of its own, after
# chart-render.sh.
. "$(dirname "$0")/lib.sh"
build_testbed
if [ -z "${MULTIGRES_TEST_KUBECONFIG:-}" ]; then
  hack/chart-render.sh
  PATH="$(testbed tools helm kubeconform | tail -1):$PATH" testbed control-plane -- hack/chart-test.sh
  exit
fi
[ -n "${MULTIGRES_BUILT:-}" ] || cargo build --quiet --locked --package controller --package admission
CHART=charts/multigres-operator
CRDS=charts/multigres-operator-crds
NAMESPACE=multigres-operator
WORK=$(mktemp -d)
RENDER=$WORK/render.yaml
trap 'rm -rf "$WORK"' EXIT
CERT_MANAGER=(--set certificates.mode=cert-manager --api-versions cert-manager.io/v1)
MONITORS=(--set monitoring.serviceMonitor.enabled=true,monitoring.dataPlane.postgres.enabled=true,monitoring.dataPlane.etcd.enabled=true
  --api-versions monitoring.coreos.com/v1)
CONTROLLER=system:serviceaccount:$NAMESPACE:multigres-operator-controller-manager
passed=0

ok() { passed=$((passed + 1)); printf '  ok  %s\n' "$1"; }
failed() { printf 'FAILED: %s\n' "$@"; exit 1; }
render() { helm template multigres-operator "$CHART" --namespace "$NAMESPACE" "$@" > "$RENDER"; }

accepted() { # what, helm arguments
  local what=$1 said; shift
  render "$@"
  said=$(kubectl apply --server-side --dry-run=server --validate=strict -f "$RENDER" 2>&1 > /dev/null) || failed "the API server refuses: $what" "$said"
  # The namespace asks for it: what would make pods that its Pod Security refuses.
  case $said in *"would violate PodSecurity"*) failed "restricted Pod Security refuses: $what" "$said" ;; esac
  if grep -q caBundle "$RENDER"; then failed "caBundle in the chart: $what"; fi
  ok "accepted by the API server: $what"
}

refused() { # what, expected text, helm arguments
  local what=$1 text=$2 output; shift 2
  if output=$(helm template multigres-operator "$CHART" --namespace "$NAMESPACE" "$@" 2>&1); then failed "$what was accepted"; fi
  case $output in *"$text"*) ok "refused: $what" ;; *) failed "$what: no \"$text\" in:" "$output" ;; esac
}

has() { # what, expected text
  grep -qF -- "$2" "$RENDER" || failed "$1: no \"$2\""
}
lacks() { # what, text
  if grep -qF -- "$2" "$RENDER"; then failed "$1: there is \"$2\""; fi
}
count() { # what, text, number
  local found; found=$(grep -cF -- "$2" "$RENDER" || true)
  [ "$found" = "$3" ] || failed "$1: \"$2\" is there $found times instead of $3"
}

# Runs a command that has to succeed, or has to fail with a text.
passes() { local what=$1 output; shift; output=$("$@" 2>&1) || failed "$what:" "$output"; ok "$what"; }
fails() {
  local what=$1 text=$2 output; shift 2
  if output=$("$@" 2>&1); then failed "$what passed"; fi
  case $output in *"$text"*) ok "$what" ;; *) failed "$what: no \"$text\" in:" "$output" ;; esac
}

rendering() {
  local values said
  for values in "" "--set controller.replicas=2" "--set metrics.enabled=false" "--set crds.install=false" \
    "--set global.imageRegistry=registry.example.com" "--set rbac.create=false" "--set rbac.create=false,metrics.secure=true" "--set controller.nativeSidecars=off" \
    "--set operands.images.postgres=registry.example.com/pgctld:1" "--set controller.serviceAccount.create=false,controller.serviceAccount.name=mine" \
    "--set admission.enabled=false" "--set admission.enabled=false,webhooks.childProtection.mode=policy" "--set admission.autoscaling.enabled=true" \
    "--set admission.serviceAccount.create=false,admission.serviceAccount.name=mine" "--set networkPolicy.enabled=true" \
    "--set networkPolicy.enabled=true,networkPolicy.admissionFrom[0].ipBlock.cidr=10.0.0.0/8" "--set webhooks.create=false" \
    "--set networkPolicy.enabled=true,networkPolicy.egress.enabled=true,tracing.endpoint=https://collector" \
    "--set namespaceOverride=watched-a,tests.enabled=false" "--set global.commonAnnotations.contact=me" \
    "--set watch.excludeNamespaces={watched-a},webhooks.labels.mine=yes,webhooks.defaults.reinvocationPolicy=IfNeeded" \
    "--set controller.strategy.type=Recreate,controller.leaderElection.enabled=false,admission.strategy.rollingUpdate.maxSurge=2" \
    "--set admission.service.type=NodePort,admission.service.ipFamilyPolicy=PreferDualStack,metrics.service.type=LoadBalancer" \
    "--set controller.probes.startup.initialDelaySeconds=3,admission.probes.readiness.failureThreshold=5" \
    "--set tracing.endpoint=https://collector:4317,tracing.tls.caSecret.name=a,tracing.tls.clientSecret.name=b" \
    "--set rbac.extraControllerRules[0].apiGroups={batch},rbac.extraControllerRules[0].resources={jobs},rbac.extraControllerRules[0].verbs={get}" \
    "--set apiPriorityAndFairness.enabled=true" "--set controller.leaderElection.enabled=false" "--set rbac.userRoles.aggregate=false" \
    "--set uninstall.guard=false" "--set uninstall.guard=true,webhooks.create=false,watch.namespaces={watched-a}" \
    "--set webhooks.childProtection.allowedGroups={sre,dba},webhooks.childProtection.allowedUsers={eve}" \
    "--set webhooks.childProtection.mode=both,webhooks.childProtection.failurePolicy=Ignore" "--set webhooks.childProtection.mode=none" \
    "--set webhooks.overrides.validateCluster.skipUnchanged=false,webhooks.overrides.coreTemplate.failurePolicy=Ignore" \
    "--set webhooks.defaults.matchConditions[0].name=mine,webhooks.defaults.matchConditions[0].expression=1==1" \
    "--set webhooks.defaults.namespaceSelector.matchLabels.multigres=here" "--set watch.namespaces={watched-a,watched-b}" \
    "--set watch.namespaces={watched-a},controller.nativeSidecars=off,webhooks.defaults.namespaceSelector.matchLabels.multigres=here" "--set admission.topologySpreadConstraints=null" \
    "--set admission.podDisruptionBudget.minAvailable=1,admission.podDisruptionBudget.maxUnavailable=null" \
    "--set certificates.mode=provided,certificates.provided.secretName=mine" "--set fullnameOverride=pg" \
    "--set metrics.secure=true" "--set metrics.secure=true,admission.enabled=false,watch.namespaces={watched-a}" \
    "--set metrics.secure=true,metrics.certificate.secretName=mine,metrics.readers[0].name=prometheus,metrics.readers[0].namespace=monitoring" \
    "--set metrics.secure=true,metrics.certificate.secretName=mine,certificates.mode=provided,certificates.provided.secretName=mine" \
    "--set tracing.endpoint=http://collector:4318,tracing.dataPlane=true,tracing.resourceAttributes.team=a,tracing.headersSecret.name=mine" \
    "--set tracing.endpoint=https://collector:4317,tracing.protocol=grpc,tracing.sampler=traceidratio,tracing.samplerArg=0.5" \
    "--kube-version 1.25.0" "--kube-version 1.28.0" "--kube-version 1.30.0" "--kube-version v1.30.4-gke.100"; do
    # shellcheck disable=SC2086 # the words are arguments
    accepted "${values:-defaults}" $values
  done
  # cert-manager's own definitions judge what the chart asks of it.
  (cd hack/tools/cert-manager && go mod download github.com/cert-manager/cert-manager)
  kubectl apply --server-side -f "$(cd hack/tools/cert-manager && go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)/deploy/crds" > /dev/null
  kubectl wait --for=condition=Established --timeout=30s crd/certificates.cert-manager.io crd/issuers.cert-manager.io crd/clusterissuers.cert-manager.io > /dev/null
  accepted "cert-manager" "${CERT_MANAGER[@]}"
  accepted "cert-manager with a ClusterIssuer" "${CERT_MANAGER[@]}" --set certificates.certManager.issuerKind=ClusterIssuer
  accepted "cert-manager with an issuer of the user" "${CERT_MANAGER[@]}" --set certificates.certManager.issuerRef.name=corp,certificates.certManager.issuerRef.kind=ClusterIssuer
  accepted "cert-manager without an authority in between" "${CERT_MANAGER[@]}" --set certificates.certManager.issuerRef.name=corp,certificates.certManager.createCA=false
  # So do those of the Prometheus Operator.
  (cd hack/tools/prometheus-operator && go mod download github.com/prometheus-operator/prometheus-operator)
  local kinds; kinds=$(cd hack/tools/prometheus-operator && go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)/example/prometheus-operator-crd
  kubectl apply --server-side -f "$kinds/monitoring.coreos.com_servicemonitors.yaml" -f "$kinds/monitoring.coreos.com_podmonitors.yaml" \
    -f "$kinds/monitoring.coreos.com_prometheusrules.yaml" -f "$kinds/monitoring.coreos.com_prometheuses.yaml" > /dev/null
  kubectl wait --for=condition=Established --timeout=60s crd/servicemonitors.monitoring.coreos.com crd/podmonitors.monitoring.coreos.com \
    crd/prometheusrules.monitoring.coreos.com crd/prometheuses.monitoring.coreos.com > /dev/null
  accepted "monitors of secured metrics" "${MONITORS[@]}" --set metrics.secure=true,monitoring.serviceMonitor.tlsConfig.serverName=metrics.example.com
  accepted "alerts and monitors" "${MONITORS[@]}" --set monitoring.prometheusRule.enabled=true
  accepted "monitors with everything set" "${MONITORS[@]}" --set monitoring.serviceMonitor.labels.release=mine,monitoring.serviceMonitor.scrapeTimeout=10s \
    --set 'watch.namespaces={watched-a}' --set 'monitoring.dataPlane.etcd.metricRelabelings[0].action=drop,monitoring.dataPlane.etcd.metricRelabelings[0].sourceLabels={__name__},monitoring.dataPlane.etcd.metricRelabelings[0].regex=go_.*'

  # What chart-render.sh compares with what is rendered: all that the values can do.
  for values in "$CHART"/tests/golden/*.yaml; do
    said=$(kubectl apply --server-side --dry-run=server --validate=strict -f "$values" 2>&1 > /dev/null) || failed "the API server refuses $values" "$said"
    case $values:$said in
      */everything.yaml:*"would violate PodSecurity"*"host namespaces"*) ;; # asks for the network of the node
      *"would violate PodSecurity"*) failed "restricted Pod Security refuses $values" "$said" ;;
      */everything.yaml:*) failed "nobody minds pods in the network of the node" "$said" ;;
    esac
  done
  ok "accepted by the API server: everything that is committed in tests/golden"

  local crd
  for crd in crds/*.yaml; do
    case $crd in */multigres-crds.yaml) continue ;; esac
    cmp -s "$crd" "$CHART/files/$crd" || failed "$CHART/files/$crd differs from $crd"
    cmp -s "$crd" "$CRDS/files/$crd" || failed "$CRDS/files/$crd differs from $crd"
  done
  ok "both charts carry every CRD"
  render; cp "$RENDER" "$WORK/first"; render
  cmp -s "$RENDER" "$WORK/first" || failed "rendering twice gives two results"
  ok "rendering is repeatable"
}

contents() {
  # What is rendered is a function of the server's version alone: match conditions for two webhooks of clusters, three of templates,
  # one of backups, four of children and the policy; while there are none, children do without their webhooks.
  local minor
  for minor in $(seq 25 36); do
    render --set crds.install=false --kube-version "1.$minor.0"
    count "for 1.$minor" "matchConditions:" "$((minor < 28 ? 0 : minor < 30 ? 10 : 11))"
    count "for 1.$minor" "failurePolicy: Ignore" "$((minor < 28 ? 4 : 0))"
    count "for 1.$minor" "failurePolicy: Fail" "$((minor < 28 ? 6 : minor < 30 ? 10 : 11))"
    count "for 1.$minor" "kind: ValidatingAdmissionPolicy" "$((minor < 30 ? 0 : 2))"
    count "for 1.$minor" "unhealthyPodEvictionPolicy" "$((minor < 27 ? 0 : 1))"
    # Everything else is the same.
    grep -vE '^# Source' "$RENDER" | awk 'BEGIN { RS = "---\n" } !/kind: (Validating|Mutating)|kind: PodDisruptionBudget/' > "$WORK/rest-$minor"
    cmp -s "$WORK/rest-$minor" "$WORK/rest-25" || failed "for 1.$minor more is different than webhooks, policies and budgets"
  done
  ok "1.25 to 1.36 get what they know, and no more"
  render --set crds.install=false,uninstall.guard=false --kube-version 1.30.0
  for text in mmultigrescluster vmultigrescluster vcoretemplate vcelltemplate vshardtemplate vmultigresbackup vcell vshard vtablegroup vtoposerver; do count "webhooks" "name: $text.kb.io" 1; done
  local groups
  groups=$(awk '/^kind: MutatingWebhookConfiguration/ { on = 1 } /templates\/tests/ { on = 0 } on && /apiGroups/' "$RENDER" | sort -u | tr -d ' ')
  [ "$groups" = "-apiGroups:[multigres.com]" ] || failed "a webhook concerns other groups than ours, so an upgrade could need it: $groups"
  ok "every webhook is there once, and only our own group is concerned"
  lacks "mode self-signed mounts nothing" "volumeMounts"
  has "mode self-signed" "--webhook-use-internal-certs=true"
  render --set crds.install=false,certificates.mode=provided,certificates.provided.secretName=mine,certificates.provided.caKey=root.pem
  has "mode provided" "--webhook-use-internal-certs=false"; has "mode provided" "mountPath: /var/run/secrets/webhook"
  has "mode provided" "{ key: root.pem, path: ca.crt }"
  ok "certificates reach the pods by mode"
  render --set crds.install=false "${MONITORS[@]}"
  for text in "--metrics-secure=true" tokenreviews nonResourceURLs "scheme: https" OTEL_; do lacks "by default" "$text"; done
  render --set crds.install=false,metrics.secure=true,metrics.certificate.secretName=mine "${MONITORS[@]}"
  count "both programs secure their metrics" "--metrics-secure=true" 2
  count "both programs have the certificate" "secret: { secretName: mine }" 2
  count "both monitors show a token" "bearerTokenFile" 2
  ok "secured metrics reach the programs, the roles and the monitors"
  render --set crds.install=false,tracing.endpoint=http://collector:4318/
  count "spans of both programs" 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, value: "http://collector:4318/v1/traces"' 2
  lacks "clusters inherit nothing" "OTEL_EXPORTER_OTLP_ENDPOINT"
  render --set crds.install=false,tracing.endpoint=http://collector:4317,tracing.protocol=grpc,tracing.dataPlane=true
  count "clusters inherit the endpoint from the controller" 'OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://collector:4317"' 1
  count "admission has no clusters" 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, value: "http://collector:4317"' 1
  ok "spans go where they are wanted, and clusters are concerned only on request"
  render --set crds.install=false,admission.enabled=false
  for text in WebhookConfiguration ValidatingAdmissionPolicy cert-rotator "component: admission" self-test; do lacks "without admission" "$text"; done
  ok "without admission there is no trace of it"
  render --set crds.install=false,uninstall.guard=false,rbac.userRoles.create=false,watch.namespaces='{watched-a,watched-b}'
  count "both programs watch these namespaces" "--watch-namespaces=watched-a,watched-b" 2
  # Controller and admission, a Role and its binding, in each; the test in the first.
  count "roles in the first namespace" "namespace: watched-a" 6
  count "roles in the second namespace" "namespace: watched-b" 4
  count "webhooks and the policy ask about these namespaces alone" "key: kubernetes.io/metadata.name" 11
  awk 'BEGIN { RS = "---\n" } /kind: ClusterRole\n/' "$RENDER" > "$WORK/cluster-roles"
  if grep -E 'multigres.com\]|secrets|pods|configmaps|deployments|events|create|delete|update' "$WORK/cluster-roles"; then failed "rights in the whole cluster although namespaces are named"; fi
  has "the test asks where it is answered" "--namespace=watched-a"
  render --set crds.install=false,rbac.userRoles.create=false,controller.nativeSidecars=on,admission.enabled=false,watch.namespaces='{watched-a}'
  lacks "a controller that need not look at nodes has no rights in the whole cluster" "kind: ClusterRole"
  render --set crds.install=false
  for text in "--watch-namespaces" "kubernetes.io/metadata.name" "namespace: watched"; do lacks "all namespaces" "$text"; done
  ok "named namespaces get Roles, and the rest of the cluster is left alone"
  render --set admission.autoscaling.enabled=true,crds.install=false
  count "the autoscaler owns the replicas" "  replicas:" 1
  ok "the autoscaler owns the replicas"
  render --set crds.install=false,metrics.secure=true,metrics.certificate.secretName=mine,logging.level='info\,controller::shard=debug' \
    --set controller.leaderElection.leaseName=mine,controller.concurrencyByKind.shard=40,operands.exporter.resources.limits.memory=64Mi \
    --set 'certificates.extraDnsNames={hook.example.com}'
  local program args
  for program in controller admission; do
    # The words of the Deployment, exactly: an unknown flag or a bad value ends the program before it shows its help.
    mapfile -t args < <(sed -n "/templates\/$program\/deployment.yaml/,/^---/p" "$RENDER" | sed -n 's/^            - \(--.*\)$/\1/p')
    [ "${#args[@]}" -gt 5 ] || failed "no arguments of $program were found"
    passes "$program knows its arguments" "$TARGET/debug/$program" "${args[@]}" --help
  done
  mapfile -t args < <(sed -n "/templates\/uninstall\/guard.yaml/,/^---/p" "$RENDER" | sed -n 's/^            - \(--.*\)$/\1/p')
  [ "${#args[@]}" = 2 ] || failed "the guard has other arguments: ${args[*]}"
  passes "the controller knows the arguments of the guard" "$TARGET/debug/controller" uninstall-guard "${args[@]}" --help
  passes "admission knows the arguments of its test" "$TARGET/debug/admission" self-test --namespace=x --child-protection=true --help
  mapfile -t args < <(sed -n "/templates\/tests\/metrics.yaml/,/^---/p" "$RENDER" | sed -n 's/^        - \(--.*\)$/\1/p')
  [ "${#args[@]}" = 2 ] || failed "the test of the metrics has other arguments: ${args[*]}"
  passes "the controller knows the arguments of the test of the metrics" "$TARGET/debug/controller" metrics-test "${args[@]}" --help
}

guards() {
  refused "a namespace that cannot be" "watch/namespaces" --set 'watch.namespaces={Prod}'
  refused "a namespace twice" "watch/namespaces" --set 'watch.namespaces={prod,prod}'
  refused "an unknown value" "additional properties" --set nonsense=1
  refused "an unknown value of a webhook" "additional properties" --set webhooks.overrides.nonsense.failurePolicy=Fail
  refused "an unknown failure policy" "failurePolicy" --set webhooks.defaults.failurePolicy=Maybe
  refused "a duration without a unit" "shutdownDelay" --set-string admission.shutdownDelay=10
  refused "two replicas without election" "controller.leaderElection.enabled=true" --set controller.replicas=2 --set controller.leaderElection.enabled=false
  refused "two controllers during an upgrade" "Recreate" --set controller.leaderElection.enabled=false,controller.strategy.type=RollingUpdate
  refused "a Lease for both programs" "another name" --set controller.leaderElection.leaseName=multigres-operator-cert-rotator
  refused "passes of an unknown kind" "toposerver" --set controller.concurrencyByKind.pod=1
  refused "namespaces that are watched and excluded" "remove watch.excludeNamespaces" --set 'watch.namespaces={a},watch.excludeNamespaces={b}'
  refused "pods without a token" "extraVolumeMounts" --set admission.serviceAccount.automountToken=false
  refused "an annotation of Helm on everything" "belongs to the chart" --set 'global.commonAnnotations.helm\.sh/hook=test'
  refused "names for a certificate of the user" "remove certificates.extraDnsNames" --set certificates.mode=provided,certificates.provided.secretName=mine,certificates.extraDnsNames={a}
  refused "Secrets for a plain connection" "https" --set tracing.endpoint=http://c:4318,tracing.tls.caSecret.name=a
  refused "dashboards of an operator that is not there" "install the Grafana Operator" --set monitoring.dashboards.enabled=true,monitoring.dashboards.kind=GrafanaDashboard
  refused "kube-system" "--create-namespace" --namespace kube-system
  refused "no name for an existing account" "controller.serviceAccount.name" --set controller.serviceAccount.create=false
  refused "no name for an existing account of admission" "admission.serviceAccount.name" --set admission.serviceAccount.create=false
  refused "one account for both" "different names" --set admission.serviceAccount.name=same,controller.serviceAccount.name=same
  refused "metrics on the port of the probes" "metrics.port=8080" --set metrics.port=8081
  refused "webhook on the port of the metrics" "admission.containerPort=9443" --set admission.containerPort=8080
  refused "a certificate of the metrics that is not used" "metrics.secure=true" --set metrics.certificate.secretName=mine
  refused "readers of metrics that everybody reads" "metrics.secure=true" --set 'metrics.readers[0].name=a,metrics.readers[0].namespace=b'
  refused "an unknown level" "logging/level" --set logging.level=loud
  refused "spans by an unknown protocol" "protocol" --set tracing.endpoint=http://c:4318,tracing.protocol=smtp
  refused "an address that is none" "tracing/endpoint" --set tracing.endpoint=collector
  refused "an endpoint for clusters that is not there" "tracing.endpoint" --set tracing.dataPlane=true
  refused "no replicas" "admission.enabled=false" --set admission.replicas=0
  refused "autoscaling upside down" "raise maxReplicas" --set admission.autoscaling.enabled=true,admission.autoscaling.minReplicas=9
  refused "autoscaling by nothing" "targetCPUUtilizationPercentage" --set admission.autoscaling.enabled=true,admission.autoscaling.targetCPUUtilizationPercentage=null
  refused "a budget with both bounds" "exactly one" --set admission.podDisruptionBudget.minAvailable=1
  refused "a budget without bounds" "exactly one" --set admission.podDisruptionBudget.maxUnavailable=null
  refused "a budget that blocks drains" "more replicas" --set admission.podDisruptionBudget.maxUnavailable=null,admission.podDisruptionBudget.minAvailable=2
  refused "killing pods that serve" "terminationGracePeriodSeconds" --set admission.shutdownDelay=1m
  refused "a deadline behind the API server's" "lower admission.reviewDeadline" --set webhooks.defaults.timeoutSeconds=5
  refused "the same for one webhook" "webhook coreTemplate" --set webhooks.overrides.coreTemplate.timeoutSeconds=8
  refused "the same for backups" "webhook backup" --set webhooks.overrides.backup.timeoutSeconds=5
  refused "match conditions on 1.27" "Kubernetes 1.28" --kube-version 1.27.0 --set 'webhooks.defaults.matchConditions[0].name=a,webhooks.defaults.matchConditions[0].expression=1==1'
  refused "a policy on 1.29" "childProtection.mode=auto" --kube-version 1.29.0 --set webhooks.childProtection.mode=policy
  refused "child webhooks without admission" "admission.enabled=true" --set admission.enabled=false,webhooks.childProtection.mode=both
  refused "children open to everyone" "childProtection.mode=both" --set webhooks.childProtection.mode=webhook,webhooks.childProtection.failurePolicy=Ignore
  refused "cert-manager where there is none" "install cert-manager first" --set certificates.mode=cert-manager
  refused "an unknown mode of certificates" "certificates" --set certificates.mode=magic
  refused "an issuer without a name" "issuerRef.name" "${CERT_MANAGER[@]}" --set certificates.certManager.issuerRef.kind=Issuer
  refused "no issuer at all" "createCA=true" "${CERT_MANAGER[@]}" --set certificates.certManager.createCA=false
  refused "an issuer that is not used" "certificates.mode=cert-manager" --set certificates.certManager.issuerRef.name=corp
  refused "cert-manager and we on one Secret" "another name" "${CERT_MANAGER[@]}" --set certificates.certManager.secretName=multigres-webhook-certs
  refused "cert-manager renewing without end" "lower renewBefore" "${CERT_MANAGER[@]}" --set certificates.certManager.renewBefore=2160h
  refused "no Secret of the user" "certificates.provided.secretName" --set certificates.mode=provided
  refused "a Secret that is not used" "certificates.mode=provided" --set certificates.provided.secretName=mine
  refused "the user and we on one Secret" "give yours another name" --set certificates.mode=provided,certificates.provided.secretName=multigres-webhook-certs
  refused "one Secret for both keys" "different names" --set certificates.caSecretName=multigres-webhook-certs
  refused "renewing without end" "lower renewBefore" --set certificates.selfSigned.serverDuration=1h
  refused "an overlap shorter than two checks" "twice checkInterval" --set certificates.selfSigned.caOverlap=1h
}

# Nobody answers the webhooks here, so every request that they concern fails, and every other passes.
live() {
  local release=(multigres-operator "$CHART" --namespace "$NAMESPACE") uid size
  helm install "${release[@]}" --set admission.enabled=false > /dev/null
  kubectl wait --for=condition=Established --timeout=30s $(kubectl get crd -o name | grep 'multigres\.com$') > /dev/null
  kubectl create namespace live > /dev/null
  kubectl config set-context --current --namespace live > /dev/null
  kubectl apply -f samples/minimal.yaml > /dev/null
  kubectl apply -f hack/chart-test.yaml > /dev/null
  ok "install without admission"

  helm upgrade "${release[@]}" --reset-values > /dev/null
  uid=$(configuration_uids)
  # What the admission service does once it runs.
  own_bundles
  # Policies take effect a moment after they were made.
  await "the policy is in force" kubectl_denied patch toposerver kept --type=merge -p '{"spec":{"placement":{"nodeSelector":{"a":"b"}}}}'
  await "the webhooks are in force" kubectl_denied annotate multigrescluster minimal multigres.com/project-ref=x --dry-run=server

  rights
  passes "a label of the user on a cluster passes" kubectl label multigrescluster minimal team=a
  passes "an annotation of the user on a cluster passes" kubectl annotate multigrescluster minimal example.com/a=b
  passes "the status of a cluster passes" kubectl patch multigrescluster minimal --subresource=status --type=merge -p '{"status":{"phase":"Progressing"}}'
  fails "an annotation of ours on a cluster is judged" "failed calling webhook" kubectl annotate multigrescluster minimal multigres.com/project-ref=x
  fails "a changed spec is judged" "failed calling webhook" kubectl patch multigrescluster minimal --type=merge -p '{"spec":{"logLevels":{"multigateway":"debug"}}}'
  fails "a new cluster is judged" "failed calling webhook" kubectl create -f - <<< '{"apiVersion":"multigres.com/v1alpha1","kind":"MultigresCluster","metadata":{"name":"new"},"spec":{"cells":[{"name":"a"}]}}'
  passes "the controller is not asked about" kubectl patch multigrescluster minimal --as "$CONTROLLER" --as-group system:masters --type=merge -p '{"metadata":{"finalizers":["multigres.com/cluster-cleanup"],"annotations":{"multigres.com/applied-images":"x"}}}'
  fails "a changed template is judged" "failed calling webhook" kubectl patch coretemplate used --type=merge -p '{"spec":{"globalTopoServer":{"etcd":{"replicas":5}}}}'
  passes "a label on a template passes" kubectl label coretemplate used team=a
  fails "the deletion of a template is judged" "failed calling webhook" kubectl delete coretemplate used
  fails "even for the controller" "failed calling webhook" kubectl delete coretemplate used --as "$CONTROLLER" --as-group system:masters

  fails "a child is read-only" "by the Multigres operator alone" kubectl patch toposerver kept --type=merge -p '{"spec":{"placement":{"nodeSelector":{"a":"b"}}}}'
  fails "so are its labels" "by the Multigres operator alone" kubectl label toposerver kept app.kubernetes.io/instance=other
  fails "so is its existence" "by the Multigres operator alone" kubectl delete toposerver kept
  fails "so is the scale of a shard" "by the Multigres operator alone" kubectl scale shard kept --replicas=7
  fails "nobody adds one" "by the Multigres operator alone" kubectl create -f - <<< '{"apiVersion":"multigres.com/v1alpha1","kind":"TopoServer","metadata":{"name":"new"},"spec":{}}'
  passes "an annotation of the user on a child passes" kubectl annotate toposerver kept example.com/a=b
  passes "the controller writes children" kubectl patch toposerver kept --as "$CONTROLLER" --as-group system:masters --type=merge -p '{"spec":{"placement":{"nodeSelector":{"a":"b"}}}}'
  passes "the controller scales shards" kubectl patch shard kept --as "$CONTROLLER" --as-group system:masters --subresource=scale --type=merge -p '{"spec":{"replicas":2}}'
  passes "the garbage collector deletes children" kubectl delete tablegroup kept --as system:serviceaccount:kube-system:generic-garbage-collector --as-group system:masters
  kubectl patch cell kept --as "$CONTROLLER" --as-group system:masters --type=merge -p '{"metadata":{"finalizers":["multigres.com/test"]}}' > /dev/null
  kubectl delete cell kept --wait=false --as "$CONTROLLER" --as-group system:masters > /dev/null
  passes "what is being deleted is in nobody's way" kubectl patch cell kept --type=merge -p '{"metadata":{"finalizers":null}}'
  kubectl delete multigrescluster minimal --wait=false > /dev/null
  passes "the same for a cluster" kubectl patch multigrescluster minimal --type=merge -p '{"metadata":{"finalizers":null},"spec":{"logLevels":{"multigateway":"debug"}}}'

  passes "an upgrade with all admission pods down" helm upgrade "${release[@]}" --reset-values --set admission.replicas=3,webhooks.defaults.timeoutSeconds=15,webhooks.childProtection.mode=webhook
  bundles_are_kept "an upgrade leaves the bundles alone"
  await "without a policy the webhook protects children" kubectl_says 'failed calling webhook "vtoposerver.kb.io"' delete toposerver kept --dry-run=server
  ok "without a policy the webhook protects children"
  passes "a rollback with all admission pods down" helm rollback multigres-operator 2 --namespace "$NAMESPACE"
  bundles_are_kept "a rollback leaves the bundles alone"
  passes "a change to cert-manager and back" eval 'helm upgrade "${release[@]}" --reset-values --set certificates.mode=cert-manager && helm upgrade "${release[@]}" --reset-values'
  bundles_are_kept "a change of modes leaves the bundles alone"
  [ "$uid" = "$(configuration_uids)" ] || failed "an upgrade made the webhook configurations anew"
  ok "the webhook configurations are the same objects all the time"
  # shellcheck disable=SC2086 # the words are arguments
  kubectl delete $CONFIGURATIONS > /dev/null
  passes "an upgrade brings deleted configurations back" eval 'helm upgrade "${release[@]}" --reset-values && configuration_uids'
  helm upgrade "${release[@]}" --reset-values --set admission.enabled=false > /dev/null
  [ -z "$(kubectl get mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies -o name | grep multigres || true)" ] || failed "webhooks stay without admission"
  ok "without admission the webhooks are gone"
  await "the policy is out of force" kubectl delete toposerver,shard,coretemplate --all --wait=false
  # A release is stored in one Secret, which may have a mebibyte: half of it is for what is still to come.
  size=$(kubectl get secret sh.helm.release.v1.multigres-operator.v2 --namespace "$NAMESPACE" -o jsonpath='{.data.release}' | base64 -d | wc -c)
  [ "$size" -lt 524288 ] || failed "a release takes $size bytes"
  ok "a release takes $((size / 1024)) KiB of the 1024 that there are"
  uninstall
}

# Nobody would run the Job of the guard here.
uninstall() { helm uninstall "${1:-multigres-operator}" --namespace "$NAMESPACE" --no-hooks > /dev/null; }

# Compares what the two accounts may do with the lines of the input.
check_rights() {
  local answer account verb object rest
  while read -r answer account verb object rest; do
    # shellcheck disable=SC2086 # the words are arguments
    [ "$(kubectl auth can-i "$verb" "$object" --namespace "$NAMESPACE" $rest --as "system:serviceaccount:$NAMESPACE:multigres-operator-$account" 2> /dev/null)" = "$answer" ] ||
      failed "may $account $verb $object $rest? not \"$answer\""
  done
}

# What the two accounts may do, and what they may not.
rights() {
  check_rights << 'RIGHTS'
yes admission watch multigresclusters.multigres.com --all-namespaces
yes admission list coretemplates.multigres.com --all-namespaces
no admission get coretemplates.multigres.com --all-namespaces
no admission get nodes
no admission patch events.events.k8s.io
yes admission list storageclasses
yes admission watch nodes
yes admission patch mutatingwebhookconfigurations/multigres-operator-mutating-webhook-configuration
yes admission watch validatingwebhookconfigurations/multigres-operator-validating-webhook-configuration
yes admission watch secrets/multigres-operator-ca-secret
yes admission update secrets/multigres-webhook-certs
yes admission delete secrets/multigres-webhook-certs
yes admission create secrets
yes admission create events.events.k8s.io
yes admission update leases/multigres-operator-cert-rotator
yes admission patch leases/multigres-operator-cert-rotator
no admission patch mutatingwebhookconfigurations/of-somebody-else
no admission list validatingwebhookconfigurations
no admission delete validatingwebhookconfigurations/multigres-operator-validating-webhook-configuration
no admission list secrets
no admission get secrets/of-somebody-else
no admission get secrets --all-namespaces
no admission update leases/multigres-operator.multigres.com
no admission patch multigresclusters.multigres.com --all-namespaces
no admission get pods
no admission watch shards.multigres.com
no controller-manager patch mutatingwebhookconfigurations/multigres-operator-mutating-webhook-configuration
no controller-manager get validatingwebhookconfigurations/multigres-operator-validating-webhook-configuration
yes controller-manager patch shards.multigres.com --all-namespaces
yes controller-manager watch storageclasses
yes controller-manager list nodes
yes controller-manager get nodes
no controller-manager watch nodes
no controller-manager patch nodes
no controller-manager get multigresclusters.multigres.com --all-namespaces
no controller-manager get shardtemplates.multigres.com --all-namespaces
no controller-manager delete statefulsets.apps --all-namespaces
no controller-manager delete configmaps --all-namespaces
no controller-manager patch events.events.k8s.io --all-namespaces
no controller-manager patch leases
yes controller-manager create leases
yes controller-manager get leases/multigres-operator.multigres.com
yes controller-manager update leases/multigres-operator.multigres.com
no controller-manager update leases
no controller-manager update leases/multigres-operator-cert-rotator
no controller-manager list leases
RIGHTS
  ok "each account may do what it needs, and no more"
}

# With secured metrics: who may ask, and who may read.
secured() {
  local release=(multigres-operator "$CHART" --namespace "$NAMESPACE") account
  helm install "${release[@]}" --set 'metrics.secure=true,metrics.readers[0].name=prometheus,metrics.readers[0].namespace=live' > /dev/null
  check_rights << 'RIGHTS'
yes controller-manager create tokenreviews.authentication.k8s.io --all-namespaces
yes controller-manager create subjectaccessreviews.authorization.k8s.io --all-namespaces
yes admission create tokenreviews.authentication.k8s.io --all-namespaces
yes admission create subjectaccessreviews.authorization.k8s.io --all-namespaces
no controller-manager get /metrics
RIGHTS
  await "the reader may read" kubectl auth can-i get /metrics --as system:serviceaccount:live:prometheus
  if kubectl auth can-i get /metrics --as system:serviceaccount:live:default > /dev/null 2>&1; then failed "anybody may read the metrics"; fi
  ok "secured metrics are for whom the chart names"
  render --set metrics.secure=true --show-only templates/tests/metrics.yaml
  kubectl apply --server-side -f "$RENDER" > /dev/null
  await "the test of the metrics may read them" kubectl auth can-i get /metrics --as "system:serviceaccount:$NAMESPACE:multigres-operator-test-metrics"
  kubectl delete -f "$RENDER" > /dev/null
  ok "the test of secured metrics may read them, for as long as it takes"
  uninstall
}

# What the roles for people allow.
people() {
  local role verb object answer
  helm install multigres-operator "$CHART" --namespace "$NAMESPACE" > /dev/null
  for role in view edit admin; do
    kubectl create rolebinding "$role" --namespace live --clusterrole "multigres-operator-$role" --user "$role" > /dev/null
  done
  await "people may look at clusters" kubectl auth can-i list multigresclusters.multigres.com --namespace live --as admin
  while read -r answer role verb object; do
    [ "$(kubectl auth can-i "$verb" "$object" --namespace live --as "$role" 2> /dev/null)" = "$answer" ] || failed "may $role $verb $object? not \"$answer\""
  done << 'RIGHTS'
yes view watch multigresclusters.multigres.com
yes view get shards.multigres.com
yes view list multigresbackups.multigres.com
no view create multigresclusters.multigres.com
no view delete multigresbackups.multigres.com
yes edit create multigresclusters.multigres.com
yes edit patch shardtemplates.multigres.com
yes edit delete multigresbackups.multigres.com
no edit patch shards.multigres.com
no edit delete cells.multigres.com
yes admin delete multigresclusters.multigres.com
no admin patch toposervers.multigres.com
RIGHTS
  [ "$(kubectl auth can-i get shards.multigres.com --subresource=status --namespace live --as view)" = yes ] || failed "view may not see how a shard is"
  [ "$(kubectl get clusterrole -l rbac.authorization.k8s.io/aggregate-to-edit=true -o name | grep -c multigres)" = 1 ] || failed "edit of Kubernetes does not get our role"
  kubectl delete rolebinding view edit admin --namespace live > /dev/null
  ok "people may write what is theirs and look at the rest"
  uninstall
}

# What `helm uninstall` begins with, as its Job does it: with the same words and rights.
leaving() {
  local account=multigres-operator-uninstall-guard guard args
  await "the webhooks of the last release are out of force" kubectl create --namespace live -f "$WORK/cluster.json"
  helm install multigres-operator "$CHART" --namespace "$NAMESPACE" > /dev/null
  render --show-only templates/uninstall/guard.yaml
  kubectl apply --server-side -f "$RENDER" > /dev/null
  mapfile -t args < <(sed -n 's/^            - \(--.*\)$/\1/p' "$RENDER")
  cp "$KUBECONFIG" "$WORK/guard"
  kubectl --kubeconfig "$WORK/guard" config set-credentials guard --token "$(kubectl create token "$account" --namespace "$NAMESPACE")" > /dev/null
  kubectl --kubeconfig "$WORK/guard" config set-context --current --user guard > /dev/null
  guard=("$TARGET/debug/controller" uninstall-guard --kubeconfig "$WORK/guard" "${args[@]}")
  await "the guard may list clusters" kubectl --kubeconfig "$WORK/guard" auth can-i list multigresclusters.multigres.com --all-namespaces
  fails "an operator that is needed stays" "MultigresClusters live/new" "${guard[@]}"
  [ "$(configuration_uids | wc -w)" = 2 ] || failed "its webhooks do not stay"
  kubectl delete multigrescluster new --namespace live > /dev/null
  passes "without clusters it may go" "${guard[@]}"
  [ -z "$(kubectl get mutatingwebhookconfigurations,validatingwebhookconfigurations -o name | grep multigres || true)" ] || failed "its webhooks are not gone"
  passes "and is asked twice without harm" "${guard[@]}"
  if kubectl --kubeconfig "$WORK/guard" auth can-i delete validatingwebhookconfigurations/other > /dev/null 2>&1; then failed "the guard may delete webhooks of others"; fi
  kubectl delete -f "$RENDER" > /dev/null
  uninstall
}

# Definitions move from the release of the operator to one of their own, and stay the same objects.
companion() {
  local release=(multigres-operator "$CHART" --namespace "$NAMESPACE") uids
  local definitions=(kubectl get crd -o 'jsonpath={range .items[?(@.spec.group=="multigres.com")]}{.metadata.uid} {end}')
  helm install "${release[@]}" --set admission.enabled=false > /dev/null
  uids=$("${definitions[@]}")
  passes "the operator gives the CRDs away" helm upgrade "${release[@]}" --reset-values --set admission.enabled=false,crds.install=false
  fails "nobody takes them by accident" "invalid ownership metadata" helm install multigres-operator-crds "$CRDS" --namespace "$NAMESPACE"
  passes "their own chart takes them" helm install multigres-operator-crds "$CRDS" --namespace "$NAMESPACE" --take-ownership
  passes "and upgrades them" helm upgrade multigres-operator-crds "$CRDS" --namespace "$NAMESPACE" --set annotations.mine=yes
  [ "$(kubectl get crd shards.multigres.com -o jsonpath='{.metadata.annotations.mine}')" = yes ] || failed "an upgrade does not reach the CRDs"
  uninstall multigres-operator-crds
  uninstall
  [ -n "$uids" ] && [ "$("${definitions[@]}")" = "$uids" ] || failed "the CRDs were made anew"
  ok "the CRDs are the same objects all the time, also without any release"
}

# Whatever is rendered, and every sample, has the form that this Kubernetes publishes for its kind.
conform() {
  local judge=(kubeconform -strict -schema-location "$WORK/schemas/{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json")
  passes "the API server publishes its schemas" testbed schemas "$WORK/schemas"
  "${judge[@]}" -summary "$CHART"/tests/golden/*.yaml samples > "$WORK/log" 2>&1 || failed "kubeconform" "$(cat "$WORK/log")"
  ok "kubeconform: $(sed -n 's/^Summary: //p' "$WORK/log")"
  # It can tell.
  sed 's/^  revisionHistoryLimit: /  revisionHistoryLimits: /' "$CHART/tests/golden/defaults.yaml" > "$WORK/wrong.yaml"
  fails "kubeconform sees an unknown field" "revisionHistoryLimits" "${judge[@]}" "$WORK/wrong.yaml"
}

# With named namespaces: rights, webhooks and the policy there, and nowhere else.
namespaced() {
  local release=(multigres-operator "$CHART" --namespace "$NAMESPACE") namespace
  echo '{"apiVersion":"multigres.com/v1alpha1","kind":"MultigresCluster","metadata":{"name":"new"},"spec":{"cells":[{"name":"a"}]}}' > "$WORK/cluster.json"
  echo '{"apiVersion":"multigres.com/v1alpha1","kind":"TopoServer","metadata":{"name":"new"},"spec":{}}' > "$WORK/child.json"
  helm install "${release[@]}" --set 'watch.namespaces={watched-a,watched-b}' > /dev/null
  check_rights << 'RIGHTS'
yes controller-manager watch multigresclusters.multigres.com --namespace watched-a
yes controller-manager patch shards.multigres.com --subresource=status --namespace watched-b
yes controller-manager create secrets --namespace watched-b
yes controller-manager delete pods --namespace watched-a
yes controller-manager create events.events.k8s.io --namespace watched-a
yes controller-manager list nodes
yes controller-manager update leases/multigres-operator.multigres.com
no controller-manager get nodes
no controller-manager list storageclasses
no controller-manager watch multigresclusters.multigres.com --all-namespaces
no controller-manager get multigresclusters.multigres.com --namespace live
no controller-manager get secrets --namespace live
no controller-manager get secrets
no controller-manager create pods --all-namespaces
yes admission watch multigresclusters.multigres.com --namespace watched-a
yes admission list shardtemplates.multigres.com --namespace watched-b
yes admission watch storageclasses
yes admission watch nodes
yes admission patch mutatingwebhookconfigurations/multigres-operator-mutating-webhook-configuration
no admission list coretemplates.multigres.com --namespace live
no admission list multigresclusters.multigres.com --all-namespaces
RIGHTS
  ok "each account may do what it needs in the watched namespaces, and nothing in others"
  for namespace in watched-a watched-b; do
    await "the webhooks are in force in $namespace" kubectl_says "failed calling webhook" create --namespace "$namespace" --dry-run=server -f "$WORK/cluster.json"
    await "the policy is in force in $namespace" kubectl_says "by the Multigres operator alone" create --namespace "$namespace" --dry-run=server -f "$WORK/child.json"
  done
  ok "watched namespaces are judged"
  passes "other namespaces are not asked about" kubectl create --namespace live --dry-run=server -f "$WORK/cluster.json"
  passes "their children are not protected" kubectl create --namespace live --dry-run=server -f "$WORK/child.json"
  passes "namespaces can be changed on a live release" helm upgrade "${release[@]}" --reset-values --set 'watch.namespaces={watched-b,live}'
  kubectl get role multigres-operator-manager-role --namespace live > /dev/null
  if kubectl get role multigres-operator-manager-role --namespace watched-a > /dev/null 2>&1; then failed "a Role stays in a namespace that is not watched any more"; fi
  passes "all namespaces can be watched again" helm upgrade "${release[@]}" --reset-values
  [ -z "$(kubectl get roles,rolebindings --all-namespaces -o name | grep -E 'manager-role|admission-role' || true)" ] || failed "Roles stay although all namespaces are watched"
  ok "Roles go with their namespaces"
  uninstall
}

CONFIGURATIONS="mutatingwebhookconfiguration/multigres-operator-mutating-webhook-configuration validatingwebhookconfiguration/multigres-operator-validating-webhook-configuration"
# shellcheck disable=SC2086 # the words are arguments
configuration_uids() { kubectl get $CONFIGURATIONS -o jsonpath='{.items[*].metadata.uid}'; }
# Sets the bundle of every webhook by server-side apply, as the field manager that owns it.
own_bundles() {
  local configuration name kind
  for configuration in $CONFIGURATIONS; do
    case $configuration in mutating*) kind=MutatingWebhookConfiguration ;; *) kind=ValidatingWebhookConfiguration ;; esac
    {
      printf 'apiVersion: admissionregistration.k8s.io/v1\nkind: %s\nmetadata: {name: %s}\nwebhooks:\n' "$kind" "${configuration#*/}"
      for name in $(kubectl get "$configuration" -o jsonpath='{.webhooks[*].name}'); do
        printf -- '- {name: %s, clientConfig: {caBundle: %s}}\n' "$name" "$(printf test | base64)"
      done
    } | kubectl apply --server-side --force-conflicts --field-manager=multigres-operator-cert -f - > /dev/null
  done
}
bundles_are_kept() {
  local bundles
  # shellcheck disable=SC2086 # the words are arguments
  bundles=$(kubectl get $CONFIGURATIONS -o jsonpath='{.items[*].webhooks[*].clientConfig.caBundle}' | tr ' ' '\n' | sort | uniq -c | tr -s ' ')
  [ "$bundles" = " 10 $(printf test | base64)" ] || failed "$1:" "$bundles"
  ok "$1"
}
kubectl_denied() { ! kubectl "$@"; }
kubectl_says() { local output; output=$(kubectl "${@:2}" 2>&1) || true; [[ $output == *"$1"* ]]; }
await() { # what, command; at most half a minute
  local what=$1 until=$((SECONDS + 30)); shift
  until "$@" > /dev/null 2>&1; do [ $SECONDS -lt $until ] || failed "$what: not after 30 s"; sleep 0.2; done
}

manifests() {
  hack/manifests.sh "$WORK/dist" > /dev/null
  local file
  for file in install install-certmanager install-no-webhook install-observability; do
    passes "$file.yaml is accepted" kubectl apply --dry-run=server --validate=strict -f "$WORK/dist/$file.yaml"
  done
  # Plainly, without --server-side: CRDs included.
  passes "install.yaml is applied" kubectl apply -f "$WORK/dist/install.yaml"
  passes "install-extras.yaml is applied over it" kubectl apply -f "$WORK/dist/install-extras.yaml"
  if grep -q "kind: Deployment" "$WORK/dist/install-extras.yaml"; then failed "the extras would replace a Deployment of another mode"; fi
  kubectl get validatingadmissionpolicy multigres-operator-child-protection > /dev/null
  kubectl delete -f "$WORK/dist/install-extras.yaml" -f "$WORK/dist/install.yaml" --ignore-not-found --wait=false > /dev/null
  ok "plain manifests come and go"
}

# A copy, whose namespace can be changed.
cp "$MULTIGRES_TEST_KUBECONFIG" "$WORK/kubeconfig"
export KUBECONFIG=$WORK/kubeconfig
kubectl apply --server-side -f hack/namespace.yaml > /dev/null
# Those after the first two are named in the values of the folder ci.
for namespace in watched-a watched-b prod staging multigres; do kubectl create namespace "$namespace" > /dev/null; done
# Pods are refused where their account is missing, also in a dry run.
for account in {multigres-operator,pg}-test-{admission,metrics}; do kubectl create serviceaccount "$account" --namespace "$NAMESPACE" > /dev/null; done
rendering
contents
guards
live
secured
namespaced
people
leaving
companion
conform
manifests
printf '%s passed, 0 failed\n' "$passed"
