package cli

import (
	"bufio"
	"context"
	"errors"
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
	"idunno/models/dataset"
	"idunno/models/dataset/source"
	"idunno/objectstore"
)

// importFlags are the options of an import.
type importFlags struct {
	idx, dtype, shape, resize, crop, mean, std string
	classes, text, licence                     string
	size                                       int
	maxBytes                                   int64
	json                                       bool
	source.Options
}

func (a *app) dataImport() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use: "import NAME [PATH]", Short: "store a data set from files", Args: between(1, 2),
		Long: `Cuts the images of PATH into batches and stores those as the data set NAME. The
format is told from the path, unless --format names one of

  idx          MNIST's format: a folder, or a file of images beside one of labels
  npy, npz     NumPy arrays: x.npy with --labels y.npy, or an archive with both
  csv          a column of labels, the rest values; a header if there is one
  safetensors  two tensors, such as x and y
  parquet      a file or a folder of them: columns of values, or of pictures as
               Hugging Face writes them, and a column of labels
  images       a folder of PNG and JPEG files, in folders that name their classes

Where the files hold a training part and a test part, the first becomes NAME-train
and the second NAME; --split takes one of them, as a NAME that ends with -train or
-test does. Bytes stay bytes, everything else is stored as 32-bit numbers. Images
are stored channels first.

An import that was cut off goes on where it was when it is given again. A set shows
only when it is whole.

mnist-train is special: it is the first 49,000 images of MNIST's training file,
which must be the official one, because the other 11,000 belong to the test set.
mnist is that test set, 21,000 images; the program carries it, so it takes no PATH.`,
		Example: `  idunno data import fashion /usr/share/fashion-mnist
  idunno data import flowers photos/ --resize 256 --crop 224
  idunno data import iris iris.csv --label species
  idunno data import digits x.npy --labels y.npy --batch-size 50
  idunno data import mnist-train --idx ~/mnist`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := f.check(cmd, args)
			if err != nil {
				return err
			}
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				if name := args[0]; name == wire.DefaultData || name == wire.DefaultTrainData {
					set, err := loadSet(name, path, f.Split)
					if err != nil {
						return err
					}
					return a.storeSet(ctx, store, set, f.size, f.json)
				}
				return a.importFiles(ctx, store, args[0], path, &f)
			})
		},
	}
	f.flags(cmd)
	return cmd
}

func (f *importFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.idx, "idx", "", "`PATH` with IDX files: short for PATH --format idx")
	flags.StringVar(&f.Format, "format", "", "`FORMAT` of the files: "+strings.Join(source.Formats(), ", "))
	flags.StringVar(&f.Split, "split", "", "which `PART`: train or test (default both, where there are both)")
	flags.StringVar(&f.Images, "images", "", "`NAME` of the array or column with the images")
	flags.StringVar(&f.Labels, "labels", "", "`NAME` of the array or column with the labels, or FILE for idx and npy; none for no labels")
	flags.StringVar(&f.Labels, "label", "", "`NAME` or number of the column with the labels: the same as --labels")
	flags.StringVar(&f.Header, "header", "", "does a CSV file begin with names: yes or no (default: its first line tells)")
	flags.StringVar(&f.shape, "shape", "", "`SHAPE` of one image, such as 1,28,28, for files that don't tell it")
	flags.StringVar(&f.Layout, "layout", "", "order of an image's sizes in arrays: chw or hwc (default: the shape tells)")
	flags.StringVar(&f.dtype, "dtype", "", "`TYPE` to store: u8 or f32")
	flags.IntVar(&f.Channels, "channels", 0, "`N` channels of pictures: 1 (grey) or 3 (default: as the first one)")
	flags.StringVar(&f.resize, "resize", "", "scale pictures to `HxW`, or the shorter side to N")
	flags.StringVar(&f.crop, "crop", "", "cut `HxW`, or N x N, out of the middle of pictures")
	flags.StringVar(&f.mean, "mean", "", "`LIST` of a number a channel, or one, that is subtracted")
	flags.StringVar(&f.std, "std", "", "`LIST` of a number a channel, or one, to divide by after that")
	flags.StringVar(&f.classes, "classes", "", "`FILE|LIST` of the classes' names, a line or a comma each")
	flags.StringVar(&f.text, "source", "", "`TEXT` on where the data comes from")
	flags.StringVar(&f.licence, "licence", "", "`TEXT`: the data's licence")
	flags.IntVar(&f.size, "batch-size", cluster.BatchSize, "`N` images in a batch")
	flags.Int64Var(&f.maxBytes, "max-bytes", source.DefaultMaxBytes, "refuse sets of more than `N` bytes")
	jsonFlag(cmd, &f.json)
}

// check reads the options and returns the path.
func (f *importFlags) check(cmd *cobra.Command, args []string) (path string, err error) {
	name := args[0]
	if !wire.ValidRef(name) || strings.Contains(name, "@") {
		return "", usage(cmd, "name %q: lower-case letters, digits and . _ - are allowed, at most 64", name)
	}
	if f.size < 1 || f.size > maxBatchSize {
		return "", usage(cmd, "--batch-size %d: choose 1 to %d", f.size, maxBatchSize)
	}
	if path = f.idx; len(args) == 2 {
		if path = args[1]; f.idx != "" {
			return "", usage(cmd, "give PATH or --idx, not both")
		}
	}
	if (path == "") != (name == wire.DefaultData) {
		if path == "" {
			return "", usage(cmd, "where are the files? give PATH, or --idx DIR")
		}
		return "", usage(cmd, "mnist is the test set that the program carries: leave the files out, or choose another name")
	}
	if f.idx != "" {
		if f.Format != "" && f.Format != source.IDX {
			return "", usage(cmd, "--idx says that the format is idx, --format %s", f.Format)
		}
		f.Format = source.IDX
	}
	if name == wire.DefaultTrainData && f.Split != "" && f.Split != source.Train {
		return "", usage(cmd, "mnist-train is made from the training file: leave --split out, or choose another name")
	}
	if f.maxBytes < 1 {
		return "", usage(cmd, "--max-bytes %d: choose 1 or more", f.maxBytes)
	}
	f.MaxBytes = f.maxBytes
	return path, f.parse(cmd)
}

// parse reads the options that are lists.
func (f *importFlags) parse(cmd *cobra.Command) (err error) {
	f.DType = strings.ToUpper(f.dtype)
	if f.Shape, err = parseShape(f.shape); err != nil {
		return usage(cmd, "--shape %v", err)
	}
	if f.Resize, err = parseSides(f.resize); err != nil {
		return usage(cmd, "--resize %v", err)
	}
	if f.Crop, err = parseSides(f.crop); err != nil {
		return usage(cmd, "--crop %v", err)
	}
	if f.Mean, err = parseNumbers(f.mean); err != nil {
		return usage(cmd, "--mean %v", err)
	}
	if f.Std, err = parseNumbers(f.std); err != nil {
		return usage(cmd, "--std %v", err)
	}
	f.Classes, err = readClasses(f.classes)
	return err
}

// parseShape reads "1,28,28" or "1x28x28"; ? and -1 stand for any size.
func parseShape(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var out []int
	for field := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == 'x' || r == '[' || r == ']' || r == ' ' }) {
		if field == "?" {
			field = "-1"
		}
		n, err := strconv.Atoi(field)
		if err != nil || n == 0 || n < -1 {
			return nil, fmt.Errorf("%q: give sizes such as 1,28,28", s)
		}
		out = append(out, n)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%q: give sizes such as 1,28,28", s)
	}
	return out, nil
}

// parseSides reads "224" or "200x224", height first.
func parseSides(s string) (size [2]int, err error) {
	shape, err := parseShape(s)
	if err != nil || len(shape) > 2 {
		return size, fmt.Errorf("%q: give a length such as 224, or height and width such as 200x300", s)
	}
	copy(size[:], shape)
	return size, nil
}

// parseNumbers reads "0.485,0.456,0.406".
func parseNumbers(s string) ([]float64, error) {
	if s == "" {
		return nil, nil
	}
	var out []float64
	for field := range strings.SplitSeq(s, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(field), 64)
		if err != nil || v-v != 0 {
			return nil, fmt.Errorf("%q: give numbers such as 0.485,0.456,0.406", s)
		}
		out = append(out, v)
	}
	return out, nil
}

// maxClassesFile bounds a file of class names.
const maxClassesFile = 8 << 20

// readClasses reads names of classes, from a file with one a line or a list with
// commas between them; "" are none.
func readClasses(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	f, err := os.Open(s)
	if errors.Is(err, os.ErrNotExist) && strings.Contains(s, ",") {
		out := strings.Split(s, ",")
		for i := range out {
			out[i] = strings.TrimSpace(out[i])
		}
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("classes: %w; give a file with a name on each line, or a list such as cat,dog", err)
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(io.LimitReader(f, maxClassesFile))
	for lines.Scan() {
		if name := strings.TrimSpace(lines.Text()); name != "" {
			out = append(out, name)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("classes in %s: %w", s, err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s names no classes: give a file with a name on each line", s)
	}
	return out, nil
}

// importFiles stores a set, or its two parts.
func (a *app) importFiles(ctx context.Context, store *objectstore.Store, name, path string, f *importFlags) error {
	parts := []string{f.Split}
	if f.Split == "" {
		both, err := source.Splits(path, f.Options)
		switch {
		case err != nil:
			return err
		case both && strings.HasSuffix(name, "-"+source.Train):
			parts = []string{source.Train}
		case both && strings.HasSuffix(name, "-"+source.Test):
			parts = []string{source.Test}
		case both:
			parts = []string{source.Train, source.Test}
		}
	}
	for i, part := range parts {
		as := name
		if len(parts) == 2 && part == source.Train {
			as = name + "-" + source.Train
			if !wire.ValidRef(as) {
				return fmt.Errorf("the training part would be called %s, which is too long: choose a shorter name", as)
			}
		}
		o := f.Options
		o.Split = part
		// With --json one document is printed, of the set that has the name.
		if err := a.importPart(ctx, store, as, path, o, f, f.json && i < len(parts)-1); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) importPart(ctx context.Context, store *objectstore.Store, name, path string, o source.Options, f *importFlags, quiet bool) error {
	src, err := source.Open(path, o)
	if err != nil {
		return hint(err)
	}
	defer src.Close()
	set := &described{Reader: src, head: src.Head()}
	if f.text != "" {
		set.head.Source = f.text
	}
	set.head.Licence = f.licence
	p := render.NewProgress(a.stderr)
	defer p.Close()
	bar := p.Bar("store "+name, int64((set.head.Images-1)/f.size+1))
	done, err := cluster.Import(ctx, store, name, set, cluster.ImportConfig{BatchSize: f.size, Journal: a.journal(name, src.Fingerprint(), f.size),
		Fingerprint: src.Fingerprint(), Progress: func(done, _ int) { bar.Set(int64(done), "batches") }})
	if err != nil {
		if done.Batches > 0 && ctx.Err() != nil {
			p.Close()
			a.talk("what is stored is kept for a day: the same command goes on where this one was")
		}
		return hint(err)
	}
	p.Close()
	if done.Reused > 0 {
		a.talk("%s: %s of %s batches were stored already", name, render.Count(int64(done.Reused)), render.Count(int64(done.Batches)))
	}
	a.talk("%s: %s images in %s batches, %s", name, render.Count(int64(set.head.Images)), render.Count(int64(done.Batches)), render.Bytes(done.Size+done.PartsSize))
	if quiet {
		return nil
	}
	return a.printVersion(wire.DataFolder+name, done.Version, f.json)
}

// described is a source with the user's words on it.
type described struct {
	*source.Reader
	head dataset.Head
}

func (d *described) Head() dataset.Head { return d.head }

// journal is the file that notes how far an import is, "" where there is no folder
// for such files.
func (a *app) journal(name, fingerprint string, size int) string {
	dir := a.getenv("XDG_CACHE_HOME")
	if dir == "" {
		home := a.getenv("HOME")
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".cache")
	}
	return filepath.Join(dir, "idunno", "imports", fmt.Sprintf("%s-%d-%.16s", name, size, fingerprint))
}

// hint adds to an error about a file which options may help.
func hint(err error) error {
	if !errors.Is(err, source.ErrOption) {
		return err
	}
	return fmt.Errorf("%w; `idunno data import --help` lists them, such as --labels, --images, --classes, --shape, --resize and --dtype", err)
}

// loadSet reads one of the parts of MNIST, or a set in IDX files, into memory.
func loadSet(name, dir, split string) (*dataset.Set, error) {
	switch name {
	case wire.DefaultData:
		return dataset.MNISTTest()
	case wire.DefaultTrainData:
		return dataset.MNISTTrain(dir)
	}
	set, err := dataset.LoadIDXDir(dir, split)
	if err != nil {
		return nil, err
	}
	set.Name = name
	return set, nil
}

func (a *app) storeSet(ctx context.Context, store *objectstore.Store, set *dataset.Set, size int, asJSON bool) error {
	p := render.NewProgress(a.stderr)
	defer p.Close()
	bar := p.Bar("store "+set.Name, int64(set.Batches(size)))
	v, err := cluster.StoreSet(ctx, store, set, size, func(done, _ int) { bar.Set(int64(done), "batches") })
	if err != nil {
		return err
	}
	p.Close()
	a.talk("%s: %s images in %s batches, %s", set.Name, render.Count(int64(set.Len())), render.Count(int64(set.Batches(size))), render.Bytes(v.Size+v.PartsSize))
	return a.printVersion(wire.DataFolder+set.Name, v, asJSON)
}
