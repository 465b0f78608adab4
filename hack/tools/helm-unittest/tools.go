//go:build tools

// Package tools pins the versions of the programs that the testbed builds from here.
package tools

import (
	_ "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"
)
