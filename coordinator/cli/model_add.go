package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/objectstore"
	"idunno/worker"
)

// cardFlags are what a user tells of a model.
type cardFlags struct {
	input, classes, mean, std, scale string
	metric, source, licence          string
}

func (a *app) modelAdd() *cobra.Command {
	var f cardFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "add NAME FILE", Short: "store an ONNX model as a new version of NAME", Args: nargs(2),
		Long: `Stores an ONNX model, after checking that a worker can run it: queries name it
as NAME, or NAME@N for the N-th version.

The model gets a card: what images it takes, what becomes of them before they are fed,
what its classes are called, and what else is told of it here. The card is part of the
stored file, in the model's own metadata, so every version has its own, and other
programs read the file as before. A query over images that the model doesn't take is
refused when it is submitted.

Bytes are divided by 255 before the model is fed with them. --scale, --mean and --std
make (x * scale - mean) / std instead, scale being 1/255 unless it is given. Images
that are stored as numbers are fed as they are.

Weights that the exporter put into files beside the model are stored with it; these
files must be in the model's folder or below it.`,
		Example: `  idunno model add digits digits.onnx
  idunno model add net net.onnx --classes labels.txt --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  idunno submit digits 1-50`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !wire.ValidRef(args[0]) || strings.Contains(args[0], "@") {
				return usage(cmd, "name %q: lower-case letters, digits and . _ - are allowed, at most 64", args[0])
			}
			bytes, err := readModel(args[1])
			if err != nil {
				return err
			}
			if bytes, err = a.applyCard(cmd, &f, args[1], bytes); err != nil {
				return err
			}
			model, err := worker.LoadModel(bytes, models.Options{AnyOutput: true})
			if err != nil {
				return fmt.Errorf("%s can't run here: %w", args[1], err)
			}
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				v, err := cluster.StoreModel(ctx, store, args[0], bytes)
				if err != nil {
					return err
				}
				info := model.Info()
				a.talk("%s: %s parameters, %s FLOP an image, output %s", args[0], render.Count(info.Parameters), render.Count(info.FLOPsPerImage), info.Output)
				return a.printVersion(wire.ModelFolder+args[0], v, asJSON)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.input, "input", "", "`SHAPE` of one image, such as 1,28,28; ? stands for any size (default: what the model declares)")
	flags.StringVar(&f.classes, "classes", "", "`FILE|LIST` of the classes' names, a line or a comma each")
	flags.StringVar(&f.scale, "scale", "", "`X` that bytes are multiplied with (default 1/255)")
	flags.StringVar(&f.mean, "mean", "", "`LIST` of a number a channel, or one, that is subtracted after that")
	flags.StringVar(&f.std, "std", "", "`LIST` of a number a channel, or one, to divide by after that")
	flags.StringVar(&f.metric, "metric", "", "`TEXT`: what the model is judged by (default accuracy)")
	flags.StringVar(&f.source, "source", "", "`TEXT` on where the model comes from")
	flags.StringVar(&f.licence, "licence", "", "`TEXT`: the model's licence")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// applyCard puts a card into a model: the one that it had, with what the user tells
// instead.
func (a *app) applyCard(cmd *cobra.Command, f *cardFlags, file string, onnx []byte) ([]byte, error) {
	m, err := models.Load(onnx, models.Options{})
	if errors.Is(err, models.ErrNotClassifier) {
		if m, err = models.Load(onnx, models.Options{AnyOutput: true}); err == nil {
			a.talk("its output is no scores of classes: queries need --outputs raw")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s can't run here: %w", file, err)
	}
	card := wire.Card{Metric: "accuracy"}
	if had, err := wire.ReadCard(onnx); err == nil && had != nil {
		card = *had
	}
	if f.input != "" {
		if card.Input, err = parseShape(f.input); err != nil {
			return nil, usage(cmd, "--input %v", err)
		}
	}
	if f.classes != "" {
		if card.Classes, err = readClasses(f.classes); err != nil {
			return nil, err
		}
	}
	if card.Preprocess, err = f.preprocess(cmd, card.Preprocess); err != nil {
		return nil, err
	}
	for _, text := range []struct {
		given string
		to    *string
	}{{f.metric, &card.Metric}, {f.source, &card.Source}, {f.licence, &card.Licence}} {
		if text.given != "" {
			*text.to = text.given
		}
	}
	if card, err = cluster.Describe(m, card); err == nil {
		onnx, err = wire.WithCard(onnx, card)
	}
	if err != nil {
		return nil, fmt.Errorf("the card of %s: %w", file, err)
	}
	return onnx, nil
}

// preprocess is what the options say, or what the card said when there are none.
func (f *cardFlags) preprocess(cmd *cobra.Command, had *wire.Preprocess) (*wire.Preprocess, error) {
	if f.scale == "" && f.mean == "" && f.std == "" {
		return had, nil
	}
	p := &wire.Preprocess{Scale: 1.0 / 255}
	var err error
	if f.scale != "" {
		if p.Scale, err = parseScale(f.scale); err != nil {
			return nil, usage(cmd, "--scale %v", err)
		}
	}
	if p.Mean, err = parseNumbers(f.mean); err != nil {
		return nil, usage(cmd, "--mean %v", err)
	}
	if p.Std, err = parseNumbers(f.std); err != nil {
		return nil, usage(cmd, "--std %v", err)
	}
	return p, nil
}

// parseScale reads a number or a fraction such as 1/255.
func parseScale(s string) (float64, error) {
	num, den, fraction := strings.Cut(s, "/")
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	by := 1.0
	if err == nil && fraction {
		by, err = strconv.ParseFloat(strings.TrimSpace(den), 64)
	}
	if v /= by; err != nil || v-v != 0 || v == 0 {
		return 0, fmt.Errorf("%q: give a number such as 1, 0.0039 or 1/255", s)
	}
	return v, nil
}

// cardInput is the shape that a card says, for a table.
func cardInput(c *wire.Card) string {
	if c == nil || c.Input == nil {
		return "-"
	}
	return dims(c.Input)
}

// cardRows shows a card, below what the model itself tells.
func cardRows(c *wire.Card) [][]string {
	if c == nil {
		return nil
	}
	rows := [][]string{{"takes", strings.TrimSpace(strings.Join(c.Takes, " or ") + " " + cardInput(c))}}
	if p := c.Preprocess; p != nil {
		rows = append(rows, []string{"preprocessing", fmt.Sprintf("(x * %s - %s) / %s", number(p.Scale), numbers(p.Mean, "0"), numbers(p.Std, "1"))})
	}
	if len(c.Classes) > 0 {
		const most = 10
		names := strings.Join(c.Classes[:min(most, len(c.Classes))], ", ")
		if len(c.Classes) > most {
			names += fmt.Sprintf(" and %d more", len(c.Classes)-most)
		}
		rows = append(rows, []string{"names of classes", render.Clean(names)})
	}
	for _, r := range [][]string{{"metric", c.Metric}, {"source", c.Source}, {"licence", c.Licence}} {
		if r[1] != "" {
			rows = append(rows, []string{r[0], render.Clean(r[1])})
		}
	}
	return rows
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func numbers(list []float64, none string) string {
	if len(list) == 0 {
		return none
	}
	var out []string
	for _, v := range list {
		out = append(out, number(v))
	}
	return "[" + strings.Join(out, " ") + "]"
}
