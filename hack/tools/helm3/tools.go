//go:build tools

// Package tools pins the versions of the programs that the testbed builds from here.
package tools

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
