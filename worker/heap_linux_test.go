package worker

import (
	"bufio"
	"context"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]mapping{
		"219d0f000000-219d12000000 rw-p 00000000 00:00 0 ":                                 {0x219d0f000000, 0x219d12000000},
		"c000000000-c000400000 rw-p 00000000 00:00 0          [anon: Go: heap]":            {0xc000000000, 0xc000400000},
		"c000400000-c004000000 ---p 00000000 00:00 0 ":                                     {},
		"00400000-0184f000 r-xp 00000000 fe:00 9978471          /usr/local/bin/idunno":     {},
		"01a00000-01b00000 rw-p 01a00000 fe:00 9978471          /usr/local/bin/idunno":     {},
		"7ffd8a5e2000-7ffd8a603000 rw-p 00000000 00:00 0                          [stack]": {},
		"219d0f000000 rw-p 00000000 00:00 0 ":                                              {},
		"x-y rw-p 00000000 00:00 0 ":                                                       {},
		"":                                                                                 {},
	} {
		if got, ok := parseMapping(line); ok != (want.to > 0) || ok && got != want {
			t.Errorf("%q is %x, %v", line, got, ok)
		}
	}
}

// The heap is found, in whole huge pages, and is marked where the kernel knows them.
func TestHugePages(t *testing.T) {
	object := new([3 * hugePage]byte)
	defer runtime.KeepAlive(object)
	at := uintptr(unsafe.Pointer(object)) + hugePage
	var home mapping
	for _, m := range heapMappings(at) {
		if m.from%hugePage > 0 || m.to%hugePage > 0 || m.from >= m.to {
			t.Errorf("mapping %x", m)
		}
		if m.from <= at && at < m.to {
			home = m
		}
	}
	if home.to == 0 {
		t.Fatalf("%x is nowhere in %x", at, heapMappings(at))
	}
	if len(heapMappings(1)) > 0 {
		t.Error("there is nothing at address 1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*heapLook)
	defer cancel()
	HugePages(ctx)
	advise(at, syscall.MADV_HUGEPAGE)
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage/enabled"); err == nil && !strings.Contains(flags(t, at), " hg") {
		t.Errorf("the heap's flags are %q", flags(t, at))
	}
}

// flags are those of the mapping that has an address.
func flags(t *testing.T, at uintptr) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	here := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m, ok := parseMapping(lines.Text()); ok {
			here = m.from <= at && at < m.to
		}
		if value, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && here {
			return value
		}
	}
	t.Fatalf("no mapping has %x", at)
	return ""
}
