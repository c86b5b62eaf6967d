package export

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

// npyWriter writes NumPy's format for one array
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version
// 1.0). A plain table is a one-dimensional array of records; a label or prediction
// that isn't known is -1 there, a probability NaN; names are left out. With values the
// array is those alone, float32, the first dimension being the image.
//
// The number of rows stands in front, and is known at the end: rows wait in a
// temporary file. The library that reads the format takes a whole array at a time.
type npyWriter struct {
	out    io.Writer
	table  Table
	fixed  fixed
	rows   int64
	temp   *os.File
	buf    *bufio.Writer
	record []byte
}

func newNPY(out io.Writer, t Table) (*npyWriter, error) {
	temp, err := os.CreateTemp("", "idunno-npy-*")
	if err != nil {
		return nil, fmt.Errorf("create a temporary file: %w", err)
	}
	// Nameless from now on: whatever happens to this process, nothing stays.
	_ = os.Remove(temp.Name())
	return &npyWriter{out: out, table: t, temp: temp, buf: bufio.NewWriterSize(temp, 1<<16)}, nil
}

const (
	recordType = "('index', '<i8'), ('batch', '<i4'), ('label', '<i4'), ('prediction', '<i4'), ('probability', '<f4')"
	roundType  = "('round', '<i4'), "
)

func (w *npyWriter) Row(r *Row) error {
	w.rows++
	p := w.record[:0]
	if w.table.Values == Plain {
		label, class, prob := int32(-1), int32(-1), float32(math.NaN())
		if r.Labeled {
			label = r.Label
		}
		if r.Scored {
			class = r.Class
		}
		if r.HasProb {
			prob = r.Prob
		}
		if w.table.Rounds {
			p = binary.LittleEndian.AppendUint32(p, uint32(r.Round))
		}
		p = binary.LittleEndian.AppendUint64(p, uint64(r.Index))
		p = binary.LittleEndian.AppendUint32(p, uint32(r.Batch))
		p = binary.LittleEndian.AppendUint32(p, uint32(label))
		p = binary.LittleEndian.AppendUint32(p, uint32(class))
		p = binary.LittleEndian.AppendUint32(p, math.Float32bits(prob))
	} else {
		if err := w.fixed.check(r); err != nil {
			return err
		}
		for _, v := range r.Values {
			p = binary.LittleEndian.AppendUint32(p, math.Float32bits(v))
		}
	}
	w.record = p
	_, err := w.buf.Write(p)
	return err
}

// Flush does nothing: the array is written at the end.
func (w *npyWriter) Flush() error { return nil }

func (w *npyWriter) Close() error {
	defer w.temp.Close()
	if err := w.buf.Flush(); err != nil {
		return err
	}
	if _, err := w.temp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := w.out.Write(w.header()); err != nil {
		return err
	}
	_, err := io.Copy(w.out, w.temp)
	return err
}

// header is the magic, the version, the length of the text that follows, and that
// text, filled up with spaces to a multiple of 64 bytes in all.
func (w *npyWriter) header() []byte {
	descr, shape := "["+recordType+"]", []string{strconv.FormatInt(w.rows, 10)}
	if w.table.Rounds {
		descr = "[" + roundType + recordType + "]"
	}
	if w.table.Values != Plain {
		descr = "'<f4'"
		for _, d := range w.fixed.shape {
			shape = append(shape, strconv.Itoa(d))
		}
	}
	dims := strings.Join(shape, ", ")
	if len(shape) == 1 {
		dims += ","
	}
	text := fmt.Sprintf("{'descr': %s, 'fortran_order': False, 'shape': (%s), }", descr, dims)
	const fore = 6 + 2 + 2
	text += strings.Repeat(" ", 63-(fore+len(text))%64) + "\n"
	p := append([]byte("\x93NUMPY"), 1, 0)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(text)))
	return append(p, text...)
}
