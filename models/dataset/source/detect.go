package source

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"idunno/models/dataset"
)

// Detect tells a format from a path: from the files in a folder, or from a file's
// first bytes and its name.
func Detect(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return detectFolder(path)
	}
	s, err := openStream(path)
	if err != nil {
		return "", err
	}
	defer s.Close()
	head, err := s.r.Peek(64)
	if err != nil && len(head) == 0 && err != io.EOF {
		return "", fmt.Errorf("%s: %w", path, broken(err))
	}
	name := strings.TrimSuffix(strings.ToLower(path), ".gz")
	switch ext := filepath.Ext(name); {
	case strings.HasPrefix(string(head), npyMagic):
		return Npy, nil
	case strings.HasPrefix(string(head), "PK\x03\x04"):
		return Npz, nil
	case strings.HasPrefix(string(head), "PAR1"):
		return Parquet, nil
	case len(head) > 4 && head[0] == 0 && head[1] == 0 && idxElements[head[2]].size > 0 && head[3] > 0 && head[3] <= maxRank+1:
		return IDX, nil
	case ext == ".safetensors", isSafetensors(head):
		return Safetensors, nil
	case ext == ".csv", ext == ".tsv", ext == ".txt", ext == ".data", isText(head):
		return CSV, nil
	}
	return "", fmt.Errorf("%s is in none of the formats %s, as far as its first bytes tell: %w", path, strings.Join(Formats(), ", "), dataset.ErrFormat)
}

// isText reports whether bytes look like a line of a table.
func isText(head []byte) bool {
	return len(head) > 0 && !slices.ContainsFunc(head, func(c byte) bool { return c < ' ' && c != '\n' && c != '\r' && c != '\t' })
}

func detectFolder(path string) (string, error) {
	for _, part := range []string{"train", "t10k"} {
		if findIDX(path, part+"-images", "idx3-ubyte") != "" {
			return IDX, nil
		}
	}
	if files, err := parquetFiles(path, ""); err == nil && len(files) > 0 {
		return Parquet, nil
	}
	return Images, nil
}

// Splits reports whether a path holds both parts of a set, Train and Test.
func Splits(path string, o Options) (bool, error) {
	if o.Format == "" {
		format, err := Detect(path)
		if err != nil {
			return false, err
		}
		o.Format = format
	}
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	switch o.Format {
	case IDX:
		return info.IsDir() && findIDX(path, idxParts[Train]+"-images", "idx3-ubyte") != "" && findIDX(path, idxParts[Test]+"-images", "idx3-ubyte") != "", nil
	case Images:
		return partFolder(path, Train) != "" && partFolder(path, Test) != "", nil
	case Npz:
		if o.Images != "" {
			return false, nil
		}
		z, err := openZip(path)
		if err != nil {
			return false, err
		}
		defer z.file.Close()
		return split(z.names()), nil
	case Safetensors:
		if o.Images != "" {
			return false, nil
		}
		t, err := openTensors(path)
		if err != nil {
			return false, err
		}
		defer t.file.Close()
		return split(t.names()), nil
	case Parquet:
		if !info.IsDir() {
			return false, nil
		}
		train, err := parquetFiles(path, Train)
		if err != nil {
			return false, err
		}
		test, err := parquetFiles(path, Test)
		return len(train) > 0 && len(test) > 0, err
	}
	return false, nil
}
