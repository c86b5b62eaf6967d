// Command idunno is a distributed learning cluster in one program.
package main

import (
	"os"

	"idunno/coordinator/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}
