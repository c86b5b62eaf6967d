// Command backendsuite packs a part of the ONNX backend test suite into the archive that the tests of package models run.
//
//	go run ./models/_gen/backendsuite -from DIR -ops LIST -out models/testdata/onnx-backend.zip
//
// DIR holds the folders node, simple, pytorch-operator and pytorch-converted of the suite (the Debian package libonnx-testdata installs them
// under share/libonnx-testdata/data). Cases are taken when every operator in their model is in LIST, a file with one name a line; cases in
// the exclusion file, with a reason each, are left out. Equal input gives an equal archive, byte for byte.
package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path"
	"slices"
	"strings"
)

func main() {
	log.SetFlags(0)
	from := flag.String("from", "", "folder of the suite")
	opsFile := flag.String("ops", "", "file with the operators, one name a line")
	exclude := flag.String("exclude", "", "file with cases to leave out: name, then the reason")
	out := flag.String("out", "", "archive to write")
	maxCase := flag.Int64("max-case", 256<<10, "cases with more bytes than this are left out")
	flag.Parse()
	if *from == "" || *opsFile == "" || *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	n, err := pack(os.DirFS(*from), *opsFile, *exclude, *out, *maxCase)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d cases\n", n)
}

func pack(src fs.FS, opsFile, exclude, out string, maxCase int64) (int, error) {
	known, err := words(opsFile)
	if err != nil {
		return 0, err
	}
	skip := map[string]bool{}
	if exclude != "" {
		if skip, err = words(exclude); err != nil {
			return 0, err
		}
	}
	models, err := fs.Glob(src, "*/*/model.onnx")
	if err != nil {
		return 0, err
	}
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestCompression) })
	cases := 0
	for _, m := range models {
		dir := path.Dir(m)
		raw, err := fs.ReadFile(src, m)
		if err != nil {
			return 0, err
		}
		ops, err := operators(raw)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", m, err)
		}
		if skip[dir] || slices.ContainsFunc(ops, func(op string) bool { return !known[op] }) {
			continue
		}
		ok, err := add(z, src, dir, maxCase)
		if err != nil {
			return 0, err
		}
		if ok {
			cases++
		}
	}
	if err := z.Close(); err != nil {
		return 0, err
	}
	return cases, os.WriteFile(out, buf.Bytes(), 0o644)
}

// words reads the first word of each line; lines that start with # are comments.
func words(file string) (map[string]bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	set := map[string]bool{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if w := strings.Fields(s.Text()); len(w) > 0 && w[0] != "#" {
			set[w[0]] = true
		}
	}
	return set, nil
}

// add copies the files of a case without timestamps, in order.
func add(z *zip.Writer, src fs.FS, dir string, maxCase int64) (bool, error) {
	var files []string
	var size int64
	err := fs.WalkDir(src, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
			files = append(files, p)
		}
		return err
	})
	if err != nil || size > maxCase {
		return false, err
	}
	slices.Sort(files)
	for _, name := range files {
		b, err := fs.ReadFile(src, name)
		if err != nil {
			return false, err
		}
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
		if err != nil {
			return false, err
		}
		if _, err := w.Write(b); err != nil {
			return false, err
		}
	}
	return true, nil
}

var errWire = errors.New("not a protobuf message")

// operators returns the op_type of every node, also of those in graphs inside of nodes: ModelProto.graph is field 7, GraphProto.node field 1,
// NodeProto.op_type field 4, .attribute field 5 and .domain field 7, AttributeProto.g field 6. Operators of other domains than ONNX's are given
// as domain.name.
func operators(model []byte) ([]string, error) {
	var ops []string
	err := each(model, 7, func(graph []byte) error { return nodes(graph, &ops) })
	return ops, err
}

func nodes(graph []byte, ops *[]string) error {
	return each(graph, 1, func(node []byte) error {
		var op, domain string
		if err := each(node, 4, func(b []byte) error { op = string(b); return nil }); err != nil {
			return err
		}
		if err := each(node, 7, func(b []byte) error { domain = string(b); return nil }); err != nil {
			return err
		}
		if domain != "" && domain != "ai.onnx" {
			op = domain + "." + op
		}
		*ops = append(*ops, op)
		return each(node, 5, func(attribute []byte) error {
			return each(attribute, 6, func(graph []byte) error { return nodes(graph, ops) })
		})
	})
}

// each calls f for the length-delimited fields with a number.
func each(p []byte, num uint64, f func([]byte) error) error {
	for len(p) > 0 {
		tag, n := binary.Uvarint(p)
		if n <= 0 {
			return errWire
		}
		p = p[n:]
		size := uint64(0)
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(p); n <= 0 {
				return errWire
			}
			size = uint64(n)
		case 1:
			size = 8
		case 5:
			size = 4
		case 2:
			length, n := binary.Uvarint(p)
			if n <= 0 {
				return errWire
			}
			p = p[n:]
			size = length
		default:
			return errWire
		}
		if size > uint64(len(p)) {
			return errWire
		}
		if tag == num<<3|2 {
			if err := f(p[:size]); err != nil {
				return err
			}
		}
		p = p[size:]
	}
	return nil
}
