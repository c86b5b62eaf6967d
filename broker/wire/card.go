package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// CardSchema is the version of the model cards that this program writes.
const CardSchema = 1

// Limits of a model card.
const (
	// MaxCard is the largest card in bytes: names for 65,536 classes fit in.
	MaxCard = 4 << 20
	// maxCardClasses and maxClassName bound the names of classes.
	maxCardClasses = 1 << 16
	maxClassName   = 200
	// maxCardText bounds the card's other texts.
	maxCardText = 2000
	// maxCardRank bounds the dimensions of an image.
	maxCardRank = 7
)

// Card tells what a model is fed with and what its answers mean. It travels inside
// of the model's file, so one digest stands for the model and its card, and every
// version of a model has the card that it was stored with.
type Card struct {
	Schema int `json:"schema_version"`
	// Input is the shape of one image, as [1, 28, 28]; -1 stands for any size. Nil
	// when the model doesn't say.
	Input []int `json:"input,omitempty"`
	// Takes are the element types of images that the model can be fed with: "U8", "F32".
	Takes []string `json:"takes,omitempty"`
	// Outputs is the number of classes, 0 when only a run can tell; Output what the
	// numbers of each class are: logits, probabilities, log-probabilities or raw.
	Outputs int    `json:"outputs,omitempty"`
	Output  string `json:"output,omitempty"`
	// Classes are the names: class i is called Classes[i]. Empty when they have none.
	Classes []string `json:"classes,omitempty"`
	// Preprocess is what happens to bytes before they are fed; nil for x/255.
	Preprocess *Preprocess `json:"preprocess,omitempty"`
	// Metric is what the model is judged by, in its makers' words.
	Metric  string `json:"metric,omitempty"`
	Source  string `json:"source,omitempty"`
	Licence string `json:"licence,omitempty"`
}

// Preprocess turns a byte x of channel c into (x*Scale - Mean[c]) / Std[c]. Images
// that are stored as numbers already are fed as they are.
type Preprocess struct {
	Scale float64 `json:"scale"` // 1/255 makes 0..1
	// Mean and Std have one number, or one a channel; nil means 0 and 1.
	Mean []float64 `json:"mean,omitempty"`
	Std  []float64 `json:"std,omitempty"`
}

// ErrCard is returned for a card that contradicts itself or exceeds a limit.
var ErrCard = errors.New("bad model card")

// Check says whether a card makes sense. Its error wraps [ErrCard].
func (c *Card) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrCard, fmt.Sprintf(format, args...))
	}
	if c.Schema != CardSchema {
		return bad("schema_version %d, this program reads %d", c.Schema, CardSchema)
	}
	if len(c.Input) > maxCardRank {
		return bad("an input of %d dimensions, at most %d", len(c.Input), maxCardRank)
	}
	for _, d := range c.Input {
		if d < -1 || d == 0 || d > math.MaxInt32 {
			return bad("dimension %d of the input", d)
		}
	}
	if len(c.Classes) > maxCardClasses {
		return bad("%d classes, at most %d", len(c.Classes), maxCardClasses)
	}
	for i, name := range c.Classes {
		if name == "" || len(name) > maxClassName || !plain(name) {
			return bad("class %d is called %.40q; a name has 1 to %d bytes of text", i, name, maxClassName)
		}
	}
	if c.Outputs < 0 || c.Outputs > 1 && len(c.Classes) > 0 && len(c.Classes) != c.Outputs {
		return bad("%d classes are named, the model has %d", len(c.Classes), c.Outputs)
	}
	for _, text := range []string{c.Output, c.Metric, c.Source, c.Licence} {
		if len(text) > maxCardText || !plain(text) {
			return bad("text %.40q; at most %d bytes without control characters", text, maxCardText)
		}
	}
	if len(c.Takes) > 8 {
		return bad("%d element types", len(c.Takes))
	}
	if c.Preprocess != nil {
		return c.Preprocess.check(c.Input)
	}
	return nil
}

func (p *Preprocess) check(input []int) error {
	channels := 1
	if len(input) > 1 {
		channels = input[0]
	}
	for _, f := range []struct {
		name   string
		values []float64
	}{{"mean", p.Mean}, {"std", p.Std}} {
		if n := len(f.values); n > 1 && n != channels && channels > 0 || n > 1 && len(input) < 2 {
			return fmt.Errorf("%w: %s has %d numbers; give one, or one a channel (%d)", ErrCard, f.name, n, max(channels, 1))
		}
		for _, v := range f.values {
			if math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) > math.MaxFloat32 || f.name == "std" && !(math.Abs(v) > 1e-30) {
				return fmt.Errorf("%w: %s %v", ErrCard, f.name, v)
			}
		}
	}
	if !(math.Abs(p.Scale) > 1e-30) || math.Abs(p.Scale) > 1e30 {
		return fmt.Errorf("%w: scale %v; give a number such as 1 or 0.00392156862745098 (1/255)", ErrCard, p.Scale)
	}
	return nil
}

// plain reports whether a text can be printed on one line.
func plain(s string) bool {
	return strings.ToValidUTF8(s, "") == s && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// Fits says whether images of a shape and element type can be fed; "" means they
// can, as far as the card knows, otherwise the answer names what the model takes and
// what was given. It is the rule by which models take images: as many elements as
// the input has, or the input's own shape where that leaves sizes open.
func (c *Card) Fits(shape []int, dtype string) string {
	takes, given := dtypeShape(strings.Join(c.Takes, " or "), c.Input), dtypeShape(dtype, shape)
	if len(c.Takes) > 0 && !slices.Contains(c.Takes, dtype) {
		return fmt.Sprintf("the model takes images of %s, the data set has %s", takes, given)
	}
	if c.Input == nil || shape == nil {
		return ""
	}
	fits := len(shape) == len(c.Input)
	if !slices.Contains(c.Input, -1) {
		fits = elements(shape) == elements(c.Input)
	} else if fits {
		for i, d := range c.Input {
			fits = fits && (d == -1 || d == shape[i])
		}
	}
	if fits {
		return ""
	}
	return fmt.Sprintf("the model takes images of %s, the data set has %s", takes, given)
}

// elements is the product of a shape, -1 when it is beyond what an image may have.
func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		if d < 1 || n > math.MaxInt32/d {
			return -1
		}
		n *= d
	}
	return n
}

// dtypeShape writes "U8 [1 28 28]", with ? for sizes that are open.
func dtypeShape(dtype string, shape []int) string {
	text := strings.ReplaceAll(fmt.Sprint(shape), "-1", "?")
	return strings.TrimSpace(dtype + " " + text)
}

// A model is a message of the protocol buffers format (ModelProto). Its field 14
// holds pairs of texts, made for such purposes, and the order of fields is free, so
// the card stands near the front, where it can be read without the weights.
const (
	cardKey     = "idunno.card"
	tagVersion  = 1<<3 | 0  // ir_version, which stays the first field
	tagMetadata = 14<<3 | 2 // metadata_props
	tagKey      = 1<<3 | 2
	tagValue    = 2<<3 | 2
	// CardHead is how much of a model's file holds the card for certain.
	CardHead = MaxCard + 64
)

// WithCard returns the model with the card in it, instead of the one it had. The
// same model and card give the same bytes.
func WithCard(onnx []byte, c Card) ([]byte, error) {
	c.Schema = CardSchema
	if err := c.Check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCard, err)
	}
	if len(text) > MaxCard {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrCard, len(text), MaxCard)
	}
	entry := binary.AppendUvarint([]byte{tagKey}, uint64(len(cardKey)))
	entry = append(append(entry, cardKey...), tagValue)
	entry = append(binary.AppendUvarint(entry, uint64(len(text))), text...)
	at, end, _ := findCard(onnx)
	out := make([]byte, 0, len(onnx)+len(entry)+16)
	out = append(append(out, onnx[:at]...), tagMetadata)
	out = append(binary.AppendUvarint(out, uint64(len(entry))), entry...)
	return append(out, onnx[end:]...), nil
}

// ReadCard reads the card of a model from the file's first bytes, of which
// [CardHead] are enough; nil when it has none. The error wraps [ErrCard].
func ReadCard(head []byte) (*Card, error) {
	at, end, text := findCard(head)
	if at == end {
		return nil, nil
	}
	if text == nil {
		return nil, fmt.Errorf("%w: cut short, or larger than %d bytes", ErrCard, MaxCard)
	}
	var c Card
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCard, err)
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &c, nil
}

// CardFrom reads a model's card; read gives the file's first n bytes, or all if it has
// fewer. The error wraps [ErrCard] or is read's.
func CardFrom(read func(n int) ([]byte, error)) (*Card, error) {
	const most = 64 << 10 // holds nearly every card
	head, err := read(most)
	if err != nil {
		return nil, err
	}
	c, err := ReadCard(head)
	if err == nil || len(head) < most {
		return c, err
	}
	if head, err = read(CardHead); err != nil {
		return nil, err
	}
	return ReadCard(head)
}

// findCard finds where in a model's file the card begins and ends; both are the
// place for one when there is none. Text is nil when the card isn't whole.
func findCard(p []byte) (at, end int, text []byte) {
	if len(p) > 0 && p[0] == tagVersion {
		_, n := binary.Uvarint(p[1:])
		if n <= 0 {
			return 0, 0, nil
		}
		at = 1 + n
	}
	if len(p) <= at || p[at] != tagMetadata {
		return at, at, nil
	}
	size, n := binary.Uvarint(p[at+1:])
	if n <= 0 || size > MaxCard+64 {
		return at, at, nil
	}
	from := at + 1 + n
	head := append([]byte{tagKey, byte(len(cardKey))}, cardKey...)
	if size < uint64(len(head)) || !bytes.HasPrefix(p[from:], head) {
		return at, at, nil // another pair of texts
	}
	end = from + int(size)
	if end > len(p) {
		return at, len(p), nil
	}
	value := p[from+len(head) : end]
	if len(value) > 0 && value[0] == tagValue {
		if size, n := binary.Uvarint(value[1:]); n > 0 && size == uint64(len(value)-1-n) {
			text = value[1+n:]
		}
	}
	return at, end, text
}
