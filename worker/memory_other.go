//go:build !linux

package worker

// residentMemory is not known here: the collector's limit alone holds a process
// back, and the model's plan.
func residentMemory(int) int64 { return 0 }
