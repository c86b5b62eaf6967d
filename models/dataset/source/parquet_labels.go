package source

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/parquet-go/parquet-go"

	"idunno/models/dataset"
)

// classes reads the column of labels: the names of classes, or their number.
func (r *parquetRows) classes(t *table) error {
	c := r.label
	defer c.close()
	if t.classes = r.declared(c.name); t.classes != nil && c.numeric() {
		return nil
	}
	t.classes = nil
	seen, top := map[string]bool{}, 0
	for _, g := range r.groups {
		if _, err := c.check(g); err != nil {
			return fmt.Errorf("%s, column %q: %w", g.file.path, c.name, err)
		}
		if err := c.open(g, 0); err != nil {
			return err
		}
		for row := range g.meta.NumRows {
			v, err := c.next()
			if err == nil && c.numeric() {
				var y int32
				if y, err = classOf(v); err == nil {
					top = max(top, int(y))
				}
			} else if err == nil {
				err = word(v, seen)
			}
			if err != nil {
				return fmt.Errorf("%s, row %d of a group, column %q: %w", g.file.path, row+1, c.name, err)
			}
		}
	}
	if c.numeric() {
		t.labels = top + 1
		return nil
	}
	r.names = map[string]int32{}
	for name := range seen {
		t.classes = append(t.classes, name)
	}
	slices.Sort(t.classes)
	for i, name := range t.classes {
		r.names[name] = int32(i)
	}
	return nil
}

// word notes a label that is a word.
func word(v parquet.Value, seen map[string]bool) error {
	text := string(v.ByteArray())
	switch {
	case v.IsNull() || text == "" || len(text) > maxLabel:
		return fmt.Errorf("%.40q is no label: %w", text, dataset.ErrFormat)
	case !seen[text] && len(seen) >= maxClasses:
		return fmt.Errorf("more than %d different labels: is it the right column? %w", maxClasses, dataset.ErrTooLarge)
	}
	seen[text] = true
	return nil
}

// declared are the names of classes that Hugging Face's library writes into a file.
func (r *parquetRows) declared(column string) []string {
	text, ok := r.files[0].tree.Lookup("huggingface")
	if !ok {
		return nil
	}
	var meta struct {
		Info struct {
			Features map[string]struct {
				Names []string `json:"names"`
			} `json:"features"`
		} `json:"info"`
	}
	if json.Unmarshal([]byte(text), &meta) != nil {
		return nil
	}
	return meta.Info.Features[column].Names
}

// classOf is a label that is a number.
func classOf(v parquet.Value) (int32, error) {
	f, err := numberOf(v)
	if err == nil && (f < 0 || f >= maxClasses || f != math.Trunc(f)) {
		err = fmt.Errorf("label %v; allowed: whole numbers from 0 to %d: %w", f, maxClasses-1, dataset.ErrFormat)
	}
	return int32(f), err
}

// numberOf is a value as a number.
func numberOf(v parquet.Value) (float64, error) {
	if v.IsNull() {
		return 0, fmt.Errorf("there is no value: %w", dataset.ErrFormat)
	}
	switch v.Kind() {
	case parquet.Boolean:
		if v.Boolean() {
			return 1, nil
		}
		return 0, nil
	case parquet.Int32:
		return float64(v.Int32()), nil
	case parquet.Int64:
		return float64(v.Int64()), nil
	case parquet.Float:
		return float64(v.Float()), nil
	case parquet.Double:
		return v.Double(), nil
	}
	return 0, fmt.Errorf("a value of type %v: %w", v.Kind(), dataset.ErrFormat)
}
