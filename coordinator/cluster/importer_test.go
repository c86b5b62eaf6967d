package cluster_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/zoo"
	"idunno/objectstore"
)

// counted is a set of images of their own number that notes what is read of it, and
// breaks at an image.
type counted struct {
	head     dataset.Head
	at       int
	read     []int
	breaksAt int
}

var errBroken = errors.New("row 31 is broken")

func newCounted(images, breaksAt int) *counted {
	return &counted{head: dataset.Head{Images: images, Shape: []int{2}, DType: dataset.U8, Classes: []string{"even", "odd"}}, breaksAt: breaksAt}
}

func (c *counted) Head() dataset.Head { return c.head }

func (c *counted) Read(n int) (*dataset.Batch, error) {
	if n = min(n, c.head.Images-c.at); n < 1 {
		return nil, io.EOF
	}
	b := &dataset.Batch{DType: dataset.U8, Shape: []int{n, 2}}
	for range n {
		if c.at == c.breaksAt {
			return nil, errBroken
		}
		c.read = append(c.read, c.at)
		b.X = binary.BigEndian.AppendUint16(b.X, uint16(c.at))
		b.Y = append(b.Y, int32(c.at%2))
		c.at++
	}
	return b, nil
}

func (c *counted) Skip(n int) error { c.at += n; return nil }

func openFiles(t *testing.T) (*objectstore.Store, context.Context) {
	t.Helper()
	ctx := testContext(t)
	store, err := cluster.OpenStore(ctx, brokertest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	return store, ctx
}

func TestImportGoesOnWhereItWas(t *testing.T) {
	store, ctx := openFiles(t)
	journal := filepath.Join(t.TempDir(), "imports", "set")
	cfg := cluster.ImportConfig{BatchSize: 4, Journal: journal, Fingerprint: "one"}
	if _, err := cluster.Import(ctx, store, "set", newCounted(50, 30), cfg); !errors.Is(err, errBroken) {
		t.Fatalf("a broken set: %v", err)
	}
	if has, err := cluster.Has(ctx, store, "data/set"); err != nil || has {
		t.Fatalf("half a set shows: %v, %v", has, err)
	}
	noted, err := os.ReadFile(journal)
	if err != nil || strings.Count(string(noted), "\n") != 8 {
		t.Fatalf("the journal says %q, %v", noted, err)
	}
	// A line that was cut off and one that lies don't count.
	lies := "13 " + strings.Repeat("0", 64) + " 20\n12 abc"
	if err := os.WriteFile(journal, append(noted, lies...), 0o600); err != nil {
		t.Fatal(err)
	}
	src := newCounted(50, -1)
	progress := []int{}
	cfg.Progress = func(done, total int) { progress = append(progress, done, total) }
	done, err := cluster.Import(ctx, store, "set", src, cfg)
	if err != nil || done.Batches != 13 || done.Reused != 7 || done.Version.Version != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if want := 50 - 4*done.Reused; len(src.read) != want || !slices.Equal(progress[len(progress)-2:], []int{13, 13}) {
		t.Errorf("read %d images, want %d; progress %v", len(src.read), want, progress)
	}
	if _, err := os.Stat(journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal stays: %v", err)
	}
	checkCounted(t, ctx, store, done.Digest)

	// An import in one piece gives the same set, and no new version.
	cfg.Journal, cfg.Fingerprint = "", ""
	if again, err := cluster.Import(ctx, store, "set", newCounted(50, -1), cfg); err != nil || again.Reused != 0 || again.Version.Version != 1 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func checkCounted(t *testing.T, ctx context.Context, store *objectstore.Store, digest string) {
	t.Helper()
	m, err := cluster.Manifest(ctx, store, digest)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range m.Objects {
		var p strings.Builder
		if _, err := store.ReadObject(ctx, o.Digest, &p); err != nil {
			t.Fatal(err)
		}
		b, err := dataset.UnmarshalBatch([]byte(p.String()))
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			if got := int(binary.BigEndian.Uint16(b.X[2*i:])); got != n || b.Y[i] != int32(n%2) {
				t.Fatalf("image %d is %d of class %d", n, got, b.Y[i])
			}
			n++
		}
	}
	if n != m.Images || n != 50 {
		t.Errorf("%d images, the manifest says %d", n, m.Images)
	}
}

func TestImportOfAnotherSourceStartsAnew(t *testing.T) {
	store, ctx := openFiles(t)
	journal := filepath.Join(t.TempDir(), "set")
	cfg := cluster.ImportConfig{BatchSize: 4, Journal: journal, Fingerprint: "one"}
	if _, err := cluster.Import(ctx, store, "set", newCounted(50, 30), cfg); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	cfg.Fingerprint = "two"
	src := newCounted(50, -1)
	if done, err := cluster.Import(ctx, store, "set", src, cfg); err != nil || done.Reused != 0 || len(src.read) != 50 {
		t.Errorf("%+v, %v", done, err)
	}
	for name, src := range map[string]*counted{"nothing": newCounted(0, -1), "huge images": {head: dataset.Head{Images: 1, Shape: []int{1 << 30}, DType: dataset.U8}}} {
		if _, err := cluster.Import(ctx, store, "other", src, cluster.ImportConfig{}); err == nil {
			t.Errorf("%s was imported", name)
		}
	}
	long := newCounted(50, -1)
	long.head.Images = 10
	long.head.Classes = nil
	if _, err := cluster.Import(ctx, store, "other", &longer{long}, cluster.ImportConfig{}); !errors.Is(err, dataset.ErrFormat) {
		t.Errorf("a source of more images than it announces: %v", err)
	}
}

// longer never ends.
type longer struct{ *counted }

func (l *longer) Read(n int) (*dataset.Batch, error) {
	return &dataset.Batch{X: make([]byte, 2*n), DType: dataset.U8, Shape: []int{n, 2}}, nil
}

func TestCardsOfModels(t *testing.T) {
	store, ctx := openFiles(t)
	if _, err := cluster.Seed(ctx, store, nil); err != nil {
		t.Fatal(err)
	}
	v, err := store.Resolve(ctx, "models/cnn")
	if err != nil {
		t.Fatal(err)
	}
	card, err := cluster.Card(ctx, store, v.Digest)
	if err != nil || !slices.Equal(card.Input, []int{1, 28, 28}) || card.Outputs != 10 || card.Output != "logits" || len(card.Classes) != 10 {
		t.Fatalf("%+v, %v", card, err)
	}
	set, err := store.Resolve(ctx, "data/mnist")
	if err != nil {
		t.Fatal(err)
	}
	data, err := cluster.Manifest(ctx, store, set.Digest)
	if err != nil {
		t.Fatal(err)
	}
	names := func(digest string) (predicted, label string) {
		t.Helper()
		predictions, labels, err := cluster.ClassNames(ctx, store, digest, data)
		if err != nil || len(predictions) != 10 || len(labels) != 10 {
			t.Fatalf("names %v, %v, %v", predictions, labels, err)
		}
		return predictions[7], labels[7]
	}
	// The model's card names what it predicts, the data set what its labels are.
	data.Classes[7] = "seven"
	if predicted, label := names(v.Digest); predicted != "7" || label != "seven" {
		t.Errorf("a prediction is called %q, a label %q", predicted, label)
	}
	// Without a card the data set names the classes.
	plain, err := cluster.StoreModel(ctx, store, "plain", zoo.CNN())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := cluster.Card(ctx, store, plain.Digest); c != nil || err != nil {
		t.Errorf("%+v, %v", c, err)
	}
	if predicted, label := names(plain.Digest); predicted != "seven" || label != "seven" {
		t.Errorf("a prediction is called %q, a label %q", predicted, label)
	}
	data.Classes = nil
	if predicted, label := names(v.Digest); predicted != "7" || label != "7" {
		t.Errorf("a prediction is called %q, a label %q", predicted, label)
	}
	if predictions, labels, err := cluster.ClassNames(ctx, store, plain.Digest, data); predictions != nil || labels != nil || err != nil {
		t.Errorf("names %v, %v, %v", predictions, labels, err)
	}
}

// What a card says of what fits is what the model says.
func TestCardAndModelAgree(t *testing.T) {
	for name, onnx := range map[string][]byte{"mlp": zoo.MLP(), "cnn": zoo.CNN()} {
		m, err := models.Load(onnx, models.Options{})
		if err != nil {
			t.Fatal(err)
		}
		card, err := cluster.Describe(m, wire.Card{})
		if err != nil {
			t.Fatal(err)
		}
		for _, shape := range [][]int{{784}, {1, 28, 28}, {28, 28}, {3, 28, 28}, {1, 28, 27}, {783}, {2, 2, 196}} {
			for _, dtype := range []string{dataset.U8, dataset.F32, "I64"} {
				if fits := card.Fits(shape, dtype) == ""; fits != (m.Check(shape, dtype) == nil) {
					t.Errorf("%s, %s of %v: the card says %v, the model %v", name, dtype, shape, fits, m.Check(shape, dtype))
				}
			}
		}
		card.Input = []int{3, 2}
		if _, err := cluster.Describe(m, card); !errors.Is(err, models.ErrInput) {
			t.Errorf("%s: an input that is not the model's: %v", name, err)
		}
		if !reflect.DeepEqual(m.Takes(), []string{dataset.U8, dataset.F32}) {
			t.Errorf("%s takes %v", name, m.Takes())
		}
	}
}
