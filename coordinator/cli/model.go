package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/onnx"
	"idunno/objectstore"
)

func (a *app) modelCommand() *cobra.Command {
	return group("model", "models: add, ls, ops, show, verify", a.modelAdd(), a.modelLs(), a.modelOps(), a.modelShow(), a.modelVerify())
}

// maxModelFile bounds the memory that reading a model file takes.
const maxModelFile = 2 << 30

// readModel reads a model file, with the weights that it keeps in files beside it.
func readModel(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxModelFile+1))
	if err != nil {
		return nil, err
	}
	if len(p) > maxModelFile {
		return nil, fmt.Errorf("%s is larger than %s, the largest model", file, render.Bytes(maxModelFile))
	}
	if !onnx.HasExternal(p) {
		return p, nil
	}
	folder, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	if p, err = onnx.Embed(p, folder.FS(), models.DefaultMaxModelBytes); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

func (a *app) modelLs() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "list models", Args: nargs(0),
		Example: "  idunno model ls\n  idunno model ls --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				files, err := store.List(ctx, wire.ModelFolder)
				if err != nil {
					return err
				}
				type row struct {
					Name     string              `json:"name"`
					Newest   objectstore.Version `json:"newest"`
					Versions int                 `json:"versions"`
					Card     *wire.Card          `json:"card,omitempty"`
				}
				rows := []row{}
				var cells [][]string
				for _, f := range files {
					name := strings.TrimPrefix(f.Name, wire.ModelFolder)
					card, err := cluster.Card(ctx, store, f.Newest.Digest)
					if err != nil {
						a.talk("%s: its card can't be read: %v", render.Clean(name), err)
					}
					rows = append(rows, row{name, f.Newest, f.Versions, card})
					cells = append(cells, []string{name, strconv.Itoa(f.Newest.Version), strconv.Itoa(f.Versions),
						render.Bytes(f.Newest.Size), cardInput(card), render.Time(f.Newest.Created), f.Newest.Digest[:12]})
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema int   `json:"schema_version"`
						Models []row `json:"models"`
					}{render.Schema, rows})
				}
				if len(rows) == 0 {
					a.talk("no models: add one with `idunno model add NAME FILE`")
					return nil
				}
				render.Table(a.stdout, []render.Column{render.L("MODEL"), render.R("NEWEST"), render.R("KEPT"), render.R("SIZE"),
					render.L("INPUT"), render.L("STORED"), render.L("SHA256")}, cells)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
