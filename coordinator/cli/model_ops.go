package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"idunno/coordinator/cli/render"
	"idunno/models/engine"
)

func (a *app) modelOps() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ops", Short: "list the operators that models may use", Args: nargs(0),
		Long: `Lists the ONNX operators that the engine runs, with the versions of their operator
set that it knows. A model that uses anything else is refused by model add, which
names the operator, its domain, the operator set and the node. It needs no cluster.`,
		Example: "  idunno model ops\n  idunno model ops --json",
		RunE: func(*cobra.Command, []string) error {
			list := engine.Operators()
			if asJSON {
				return render.JSON(a.stdout, struct {
					Schema    int              `json:"schema_version"`
					Operators []engine.Support `json:"operators"`
				}{render.Schema, list})
			}
			var cells [][]string
			for _, o := range list {
				cells = append(cells, []string{o.Domain, o.Op, fmt.Sprintf("%d-%d", o.Since, o.Until)})
			}
			render.Table(a.stdout, []render.Column{render.L("DOMAIN"), render.L("OPERATOR"), render.R("OPSETS")}, cells)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
