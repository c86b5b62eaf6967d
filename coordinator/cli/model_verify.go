package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"idunno/coordinator/cli/render"
	"idunno/models/suite"
)

// verified is one case in the JSON of model verify.
type verified struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Reason  string  `json:"reason,omitempty"` // the same words for the same reason
	Error   string  `json:"error,omitempty"`
	MaxDiff float64 `json:"max_difference"`
}

func (a *app) modelVerify() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify DIR...", Short: "run ONNX test cases and compare the results", Args: between(1, 1<<10),
		Long: `Runs every test case below the folders: a model.onnx with the folders test_data_set_0,
test_data_set_1 and so on beside it, which hold the inputs input_0.pb, input_1.pb...
and the expected outputs output_0.pb... This is the layout of the ONNX backend tests
and of the models in the ONNX model zoo. It needs no cluster.

Weights that a model keeps in files of its folder or below it are read.

A case that fails is named on standard error, with the reason; then the exit code is 1.
With --json, reasons counts the failures by what they have in common.`,
		Example: "  idunno model verify resnet18\n  idunno model verify --json onnx/backend/test/data/node",
		RunE: func(cmd *cobra.Command, args []string) error {
			cases := []verified{}
			for _, dir := range args {
				some, err := a.verifyFolder(cmd.Context(), dir, asJSON)
				if err != nil {
					return err
				}
				cases = append(cases, some...)
			}
			return a.printVerified(cases, asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// verifyFolder runs the cases below one folder and, unless quiet, names those that fail.
func (a *app) verifyFolder(ctx context.Context, root string, quiet bool) ([]verified, error) {
	fsys := os.DirFS(root)
	dirs, err := suite.Find(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("%s has no test case: there must be a model.onnx in it or below", root)
	}
	var cases []verified
	for _, dir := range dirs {
		r, err := verifyCase(ctx, filepath.Join(root, filepath.FromSlash(dir)))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		v := verified{Name: filepath.Join(root, filepath.FromSlash(dir)), OK: err == nil, MaxDiff: r.MaxDiff}
		if err != nil {
			v.Reason, v.Error = suite.Why(err), oneLine(err.Error())
			if !quiet {
				a.talk("%s: %s", render.Clean(v.Name), v.Error)
			}
		}
		cases = append(cases, v)
	}
	return cases, nil
}

// verifyCase runs one case. Nothing outside of its folder is opened.
func verifyCase(ctx context.Context, dir string) (suite.Report, error) {
	folder, err := os.OpenRoot(dir)
	if err != nil {
		return suite.Report{}, err
	}
	defer folder.Close()
	return suite.Verify(ctx, folder.FS(), ".", suite.DefaultTolerance())
}

func (a *app) printVerified(cases []verified, asJSON bool) error {
	failed, reasons := 0, map[string]int{}
	for _, v := range cases {
		if !v.OK {
			failed++
			reasons[v.Reason]++
		}
	}
	passed := len(cases) - failed
	if asJSON {
		err := render.JSON(a.stdout, struct {
			Schema  int            `json:"schema_version"`
			Passed  int            `json:"passed"`
			Failed  int            `json:"failed"`
			Reasons map[string]int `json:"reasons"`
			Cases   []verified     `json:"cases"`
		}{render.Schema, passed, failed, reasons, cases})
		if err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.stdout, "%d passed, %d failed\n", passed, failed)
	}
	if failed > 0 {
		return &codeError{code: ExitFailed}
	}
	return nil
}
