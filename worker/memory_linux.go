package worker

import (
	"bytes"
	"os"
	"strconv"
)

// residentMemory is the memory, in bytes, that a process has at the moment; 0 when
// it is gone.
func residentMemory(pid int) int64 {
	p, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(p)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
