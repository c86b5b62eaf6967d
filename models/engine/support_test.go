package engine

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write ../OPERATORS.md")

// operatorsPage is the page that lists the operators.
func operatorsPage() string {
	var b strings.Builder
	b.WriteString("# Operators\n\nWhat models may use, with the versions of the operator set of each domain; `idunno model ops --json` prints the same. Anything else is\n" +
		"refused by `idunno model add`, with the operator, its domain, the operator set and the node. Written by\n`go test ./models/engine -run OperatorsPage -update`.\n")
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
