package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/models"
	"idunno/objectstore"
)

// shown is the JSON of model show. What only a run can tell is left out.
type shown struct {
	Schema int    `json:"schema_version"`
	Model  string `json:"model"`
	models.Info
	One   *models.Plan `json:"one,omitempty"`   // a batch of one image
	Batch *models.Plan `json:"batch,omitempty"` // the batch that was asked for
	Card  *wire.Card   `json:"card,omitempty"`
}

func (a *app) modelShow() *cobra.Command {
	var asJSON, steps bool
	var batch int
	cmd := &cobra.Command{
		Use: "show NAME|FILE", Short: "what a model takes, gives and costs", Args: nargs(1),
		Long: `Shows a stored model, NAME or NAME@N, or a FILE, which is told by ".onnx" at its
end or a "/" in it: inputs, outputs, operators, parameters, the arithmetic for an image,
and the memory that a worker's slot needs for one image and for a batch. --steps lists
what is computed after operators have been put together, and where the arithmetic is.
A model that can't run here, or needs more memory than allowed, is refused with the
reason.`,
		Example: "  idunno model show mlp\n  idunno model show digits.onnx --batch 256 --steps\n  idunno model show cnn@2 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if batch < 1 || batch > maxShownBatch {
				return usage(cmd, "--batch %d: choose 1 to %d", batch, maxShownBatch)
			}
			onnx, err := a.modelBytes(cmd, args[0])
			if err != nil {
				return err
			}
			m, err := models.Load(onnx, models.Options{AnyOutput: true})
			if err != nil {
				return fmt.Errorf("%s can't run here: %w", args[0], err)
			}
			d := shown{Schema: render.Schema, Model: args[0], Info: m.Info()}
			if d.Card, err = wire.ReadCard(onnx); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if d.One, err = m.Plan(1); err == nil {
				d.Batch, err = m.Plan(batch)
			}
			if err != nil && !errors.Is(err, models.ErrUnknownCost) {
				return fmt.Errorf("%s, a batch of %d: %w", args[0], batch, err)
			}
			if asJSON {
				return render.JSON(a.stdout, d)
			}
			if err != nil {
				a.talk("%v", err)
			}
			a.printModel(&d)
			if steps && d.Batch != nil {
				a.printSteps(d.Batch)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&batch, "batch", 100, "`N` images in a batch")
	cmd.Flags().BoolVar(&steps, "steps", false, "list what is computed (--json always does)")
	jsonFlag(cmd, &asJSON)
	return cmd
}

const maxShownBatch = 1 << 20

// modelBytes reads a model from a file or from the store.
func (a *app) modelBytes(cmd *cobra.Command, name string) ([]byte, error) {
	if strings.Contains(name, "/") || strings.HasSuffix(name, ".onnx") {
		return readModel(name)
	}
	if base, _, _ := strings.Cut(name, "@"); !wire.ValidRef(base) {
		return nil, usage(cmd, "model %q: give the name of a stored model, or a file whose name ends with .onnx", name)
	}
	var b bytes.Buffer
	err := a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
		_, err := store.Get(ctx, wire.ModelFolder+name, &b)
		return err
	})
	return b.Bytes(), err
}

func (a *app) printModel(d *shown) {
	rows := [][]string{{"inputs", values(d.Inputs)}, {"outputs", values(d.Outputs) + " (" + d.Output + ")"}, {"opset", strconv.FormatInt(d.Opset, 10)},
		{"parameters", render.Count(d.Parameters)}, {"operators", strings.Join(d.Ops, ", ")}}
	if d.Classes > 0 {
		rows = append(rows, []string{"classes", render.Count(int64(d.Classes))})
	}
	if d.One != nil {
		rows = append(rows, []string{"FLOP an image", render.Count(d.FLOPsPerImage)}, []string{"memory, 1 image", render.Bytes(d.One.PeakBytes)})
	}
	if d.Batch != nil {
		memory := render.Bytes(d.Batch.PeakBytes)
		if d.Batch.AtOnce < d.Batch.Images {
			memory += fmt.Sprintf(" (%d at a time)", d.Batch.AtOnce)
		}
		rows = append(rows, []string{fmt.Sprintf("memory, %d images", d.Batch.Images), memory})
	}
	render.Table(a.stdout, []render.Column{render.L("MODEL"), render.L(render.Clean(d.Model))}, append(rows, cardRows(d.Card)...))
}

// values prints inputs or outputs as "input float[?,784]".
func values(list []models.IO) string {
	var out []string
	for _, v := range list {
		out = append(out, v.Name+" "+v.DType+dims(v.Shape))
	}
	return strings.Join(out, ", ")
}

func dims(shape []int) string {
	var out []string
	for _, n := range shape {
		if n < 0 {
			out = append(out, "?")
			continue
		}
		out = append(out, strconv.Itoa(n))
	}
	return "[" + strings.Join(out, ",") + "]"
}

func (a *app) printSteps(p *models.Plan) {
	var rows [][]string
	for _, s := range p.Steps {
		rows = append(rows, []string{s.Operator, dims(s.Shape), render.Count(s.FLOPs), render.Percent(s.Share), s.Node})
	}
	fmt.Fprintln(a.stdout)
	render.Table(a.stdout, []render.Column{render.L("STEP"), render.L("OUTPUT"), render.R("FLOP"), render.R("SHARE"), render.L("NODE")}, rows)
}
