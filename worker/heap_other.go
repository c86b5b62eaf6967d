//go:build !linux

package worker

import "context"

// HugePages does nothing here.
func HugePages(context.Context) {}
