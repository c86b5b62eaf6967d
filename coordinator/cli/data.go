package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/cluster"
	"idunno/models/dataset"
	"idunno/objectstore"
)

func (a *app) dataCommand() *cobra.Command {
	return group("data", "data sets: fetch, import, ls", a.dataFetch(), a.dataImport(), a.dataLs())
}

// maxBatchSize keeps the result of a batch, up to 12 bytes an image, well within a message.
const maxBatchSize = 10_000

func (a *app) dataFetch() *cobra.Command {
	var dir string
	var mirrors []string
	cmd := &cobra.Command{
		Use: "fetch mnist", Short: "fetch MNIST from a public mirror and store it", Args: nargs(1),
		Long: `Fetches MNIST's four files (11 MiB) from a public mirror, checks their sums, and
stores the training set mnist-train, and the test set mnist when the SDFS has none.
With --dir the files are kept there, and not fetched again when they are there.

Without a network bring the files yourself: idunno data import mnist-train --idx DIR`,
		Example: "  idunno data fetch mnist\n  idunno data fetch mnist --dir ~/mnist",
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "mnist" {
				return usage(cmd, "no data set %q; choose mnist", args[0])
			}
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				return a.fetchMNIST(ctx, store, dir, mirrors)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "`DIR` to keep the files in (default: they are not kept)")
	cmd.Flags().StringArrayVar(&mirrors, "mirror", nil, "`URL` of a folder with the files, tried instead of the public ones; may be repeated")
	return cmd
}

func (a *app) fetchMNIST(ctx context.Context, store *objectstore.Store, dir string, mirrors []string) error {
	if dir == "" {
		tmp, err := os.MkdirTemp("", "idunno-mnist-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	}
	p := render.NewProgress(a.stderr)
	defer p.Close()
	bars := map[string]*render.Bar{}
	err := dataset.Fetch(ctx, dir, dataset.FetchConfig{Mirrors: mirrors, Progress: func(file string, done, total int64) {
		bar := bars[file]
		if bar == nil {
			bar = p.Share(file)
			bars[file] = bar
		}
		bar.SetShare(float64(done)/float64(max(total, 1)), render.Bytes(done)+" of "+render.Bytes(total))
	}})
	p.Close()
	if err != nil {
		return fmt.Errorf("%w; if this machine has no network, bring the files yourself: idunno data import mnist-train --idx DIR", err)
	}
	for _, name := range []string{wire.DefaultTrainData, wire.DefaultData} {
		if name == wire.DefaultData {
			if has, err := cluster.Has(ctx, store, wire.DataFolder+name); err != nil || has {
				return err
			}
		}
		set, err := loadSet(name, dir, "")
		if err != nil {
			return err
		}
		if err := a.storeSet(ctx, store, set, cluster.BatchSize, false); err != nil {
			return err
		}
	}
	return nil
}

// dataRow is a line of `data ls`.
type dataRow struct {
	Name      string   `json:"name"`
	Version   int      `json:"version"`
	Batches   int      `json:"batches"`
	BatchSize int      `json:"batch_size"`
	Images    int      `json:"images"`
	Shape     []int    `json:"shape"`
	DType     string   `json:"dtype"`
	Classes   []string `json:"classes"`
	Source    string   `json:"source"`
	Licence   string   `json:"licence"`
	Bytes     int64    `json:"bytes"`
}

func (a *app) dataLs() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "list data sets", Args: nargs(0),
		Example: "  idunno data ls\n  idunno data ls --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				sets, err := a.dataSets(ctx, store)
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema int       `json:"schema_version"`
						Data   []dataRow `json:"data"`
					}{render.Schema, list(sets)})
				}
				if len(sets) == 0 {
					a.talk("no data sets: store the test set with `idunno data import mnist`")
					return nil
				}
				var rows [][]string
				for _, s := range sets {
					rows = append(rows, []string{s.Name, strconv.Itoa(s.Version), render.Count(int64(s.Batches)), render.Count(int64(s.BatchSize)),
						render.Count(int64(s.Images)), fmt.Sprint(s.Shape), s.DType, render.Bytes(s.Bytes)})
				}
				render.Table(a.stdout, []render.Column{render.L("DATA"), render.R("VERSION"), render.R("BATCHES"), render.R("OF"),
					render.R("IMAGES"), render.L("SHAPE"), render.L("TYPE"), render.R("SIZE")}, rows)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) dataSets(ctx context.Context, store *objectstore.Store) ([]dataRow, error) {
	files, err := store.List(ctx, wire.DataFolder)
	if err != nil {
		return nil, err
	}
	var out []dataRow
	for _, f := range files {
		m, err := cluster.Manifest(ctx, store, f.Newest.Digest)
		if errors.Is(err, dataset.ErrFormat) {
			a.talk("%s is no data set: %v", render.Clean(f.Name), err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		out = append(out, dataRow{strings.TrimPrefix(f.Name, wire.DataFolder), f.Newest.Version, m.Batches, m.BatchSize, m.Images,
			m.Shape, m.DType, list(m.Classes), m.Source, m.Licence, f.Newest.Size + f.Newest.PartsSize})
	}
	return out, nil
}
