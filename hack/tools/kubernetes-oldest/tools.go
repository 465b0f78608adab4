//go:build tools

// Package tools pins the oldest Kubernetes whose API server the testbed can build.
package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
