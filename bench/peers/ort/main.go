// Command ort measures the inference engine beside ONNX Runtime: the same models and inputs in the same process, in turn.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	lib := flag.String("lib", os.Getenv("ORT_LIB"), "shared library of ONNX Runtime; default $ORT_LIB")
	refs := flag.String("references", "", "have ONNX Runtime compute the outputs of the cases in this folder, and stop")
	flag.Parse()
	err := initialize(*lib)
	if err == nil && *refs != "" {
		err = references(*refs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ort:", err)
		os.Exit(1)
	}
}
