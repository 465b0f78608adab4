// The definitions of the Prometheus Operator's kinds, which judge what the chart asks of it. Nothing is built from it.
module multigres.com/operator/hack/tools/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
