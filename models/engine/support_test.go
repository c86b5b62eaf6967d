package engine

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write ../OPERATORS.md")

const numbersPage = `
## Numbers

Floating-point types are held and computed in single precision. Of double that loses what 24 bits of fraction and exponents up to 2^127 don't
hold; float16 and bfloat16 are rounded, and overflow, only in Cast, so results are closer to the exact ones than such arithmetic would be. Sums
of products are accumulated in single precision, statistics of normalizations and reductions in double.

Integers and truth values are held in 64 bits. Results wrap around at the width of their type, as in two's complement. Casts to integers round
towards zero; NaN and what 64 bits don't hold become the least 64-bit integer, then cut to the width. A division by zero gives 0. Numbers of
uint64 from 2^63 on are held by their bits: they add, multiply and cast right, but compare and divide as negative ones.

Strings, sequences, maps, optional values, sparse tensors, complex numbers and floating-point types of 8 bits and less are not read.
`

// operatorsPage is the page that lists the operators.
func operatorsPage() string {
	var b strings.Builder
	b.WriteString("# Operators\n\nWhat models may use, with the versions of the operator set of each domain; `idunno model ops --json` prints the same. Anything else is\n" +
		"refused by `idunno model add`, with the operator, its domain, the operator set and the node. Written by\n`go test ./models/engine -run OperatorsPage -update`.\n" + numbersPage)
	domain := ""
	for _, o := range Operators() {
		if o.Domain != domain {
			domain = o.Domain
			fmt.Fprintf(&b, "\n## %s, up to opset %d\n\n| operator | since opset |\n|---|---|\n", domain, o.Until)
		}
		fmt.Fprintf(&b, "| %s | %d |\n", o.Op, o.Since)
	}
	return b.String()
}

func TestOperatorsPage(t *testing.T) {
	const file = "../OPERATORS.md"
	if *update {
		if err := os.WriteFile(file, []byte(operatorsPage()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != operatorsPage() {
		t.Error("models/OPERATORS.md is not what the engine runs: go test ./models/engine -run OperatorsPage -update")
	}
}
