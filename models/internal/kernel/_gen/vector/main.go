// Command vector writes the kernels beside the matrix products as Go assembly, for one level at a time:
//
//	cd models/internal/kernel/_gen && for n in 8 16; do
//		go run ./vector -lanes $n -out ../vector${n}_amd64.s -stubs ../vector${n}_amd64_stub.go -pkg kernel
//	done
//
// With 8 lanes they need AVX2 and FMA, with 16 AVX-512F. Nothing outside of the slices is read or written: what does not fill a
// register is loaded and stored under a mask.
package main

import (
	"flag"
	"fmt"
	"os"

	. "github.com/mmcloughlin/avo/build"
)

func main() {
	n := flag.Int("lanes", 16, "float32 in a register: 8 or 16")
	flag.Parse()
	if *n != 8 && *n != 16 {
		fmt.Fprintln(os.Stderr, "lanes must be 8 or 16")
		os.Exit(2)
	}
	ConstraintExpr("amd64,!noasm")
	u := unit{lanes: *n}
	u.functions()
	u.pairs()
	u.reductions()
	u.normalize()
	u.unzip()
	u.greatest()
	if *n == 8 {
		u.transpose()
	}
	u.taps()
	for _, d := range []depthwise{{u, 3, 1, 1}, {u, 3, 2, 1}, {u, 5, 1, 1}, {u, 5, 2, 1}} {
		d.write()
	}
	if u.wide() {
		depthwise{u, 3, 1, 2}.write()
		depthwise{u, 3, 2, 2}.write()
	}
	Generate()
}
