package worker

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	// hugePage is the size of one, in bytes.
	hugePage = 2 << 20
	// heapRoom is what the heap is made to have at once, in bytes, before it takes any of
	// it: pages that are there already have to be copied.
	heapRoom = 64 << 20
	// heapLook is how often it is looked whether the heap has grown beyond.
	heapLook = time.Second
	// collapse is the advice to do that now.
	collapse = 25
)

// HugePages has the kernel keep this process's heap in huge pages until ctx ends, where
// it does that for those who ask. The kernel takes a killed process's memory back before
// it closes its connections, and nobody hears of the death before: some 80 µs for each
// MiB in small pages, and a tenth of that in huge ones.
func HugePages(ctx context.Context) {
	room := new([heapRoom]byte)
	advise(uintptr(unsafe.Pointer(room)), syscall.MADV_HUGEPAGE)
	runtime.KeepAlive(room)
	room = nil
	runtime.GC() // or the heap could grow by as much before the next collection
	size := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
	metrics.Read(size)
	was := size[0].Value.Uint64()
	tick := time.NewTicker(heapLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if metrics.Read(size); size[0].Value.Uint64() != was {
			was = size[0].Value.Uint64()
			object := new([64 << 10]byte)
			advise(uintptr(unsafe.Pointer(object)), syscall.MADV_HUGEPAGE, collapse)
			runtime.KeepAlive(object)
		}
	}
}

// advise tells the kernel how to keep the heap, which has something at the address. It
// may do as it likes.
func advise(at uintptr, advice ...uintptr) {
	for _, m := range heapMappings(at) {
		for _, a := range advice {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, a)
		}
	}
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// heapMappings are the heap's ranges in whole huge pages: the one that has the address, and
// those that join it. There is none where the kernel doesn't tell.
func heapMappings(at uintptr) []mapping {
	p, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	var run []mapping
	var end uintptr
	found := false
	for lines := bufio.NewScanner(bytes.NewReader(p)); lines.Scan(); {
		m, ok := parseMapping(lines.Text())
		if !ok || m.from != end {
			if found {
				break
			}
			run = nil
		}
		if !ok {
			continue
		}
		end = m.to
		found = found || m.from <= at && at < m.to
		if whole := (mapping{(m.from + hugePage - 1) &^ (hugePage - 1), m.to &^ (hugePage - 1)}); whole.from < whole.to {
			run = append(run, whole)
		}
	}
	if !found {
		return nil
	}
	return run
}

// parseMapping reads a line of /proc/self/maps. It reports false for what is no memory of
// the process's own to write to.
func parseMapping(line string) (m mapping, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 || fields[1] != "rw-p" || fields[4] != "0" || len(fields) > 5 && !strings.HasPrefix(fields[5], "[anon:") {
		return mapping{}, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	first, err := strconv.ParseUint(from, 16, 64)
	last, err2 := strconv.ParseUint(to, 16, 64)
	return mapping{uintptr(first), uintptr(last)}, err == nil && err2 == nil
}
