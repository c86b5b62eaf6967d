package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"idunno/coordinator/cli/render"
)

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "print the program's version", Args: nargs(0),
		Example: "  idunno version\n  idunno version --json",
		RunE: func(*cobra.Command, []string) error {
			if !asJSON {
				fmt.Fprintf(a.stdout, "idunno %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
			}
			return render.JSON(a.stdout, struct {
				Schema   int    `json:"schema_version"`
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{render.Schema, version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// jsonFlag adds the --json of a reading command.
func jsonFlag(cmd *cobra.Command, into *bool) {
	cmd.Flags().BoolVar(into, "json", false, "print one JSON document")
}

// printLine prints v as JSON on one line.
func printLine(w io.Writer, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(p, '\n'))
	return err
}
