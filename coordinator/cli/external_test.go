package cli_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"idunno/models/zoo"
)

// writeOutside writes the mlp as exporters write large models: apart/mlp.onnx with its weights in apart/weights.bin, and away/mlp.onnx whose
// weights are said to be in ../apart.
func writeOutside(t *testing.T, dir string) {
	t.Helper()
	weights := []byte{}
	for name, location := range map[string]string{"apart": "weights.bin", "away": "../apart/weights.bin"} {
		weights = weights[:0]
		model := rewrite(t, zoo.MLP(), 7, func(graph []byte) []byte {
			return rewrite(t, graph, 5, func(tensor []byte) []byte { return outside(t, tensor, location, &weights) })
		})
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "mlp.onnx"), model, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "apart", "weights.bin"), weights, 0o644); err != nil {
		t.Fatal(err)
	}
}

// outside moves the raw data of a TensorProto to weights.
func outside(t *testing.T, tensor []byte, location string, weights *[]byte) []byte {
	t.Helper()
	offset, length := len(*weights), 0
	out := rewrite(t, tensor, 9, func(raw []byte) []byte {
		*weights = append(*weights, raw...)
		length = len(raw)
		return nil
	})
	for _, kv := range [][2]string{{"location", location}, {"offset", strconv.Itoa(offset)}, {"length", strconv.Itoa(length)}} {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), kv[0])
		entry = protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), kv[1])
		out = protowire.AppendBytes(protowire.AppendTag(out, 13, protowire.BytesType), entry)
	}
	return protowire.AppendVarint(protowire.AppendTag(out, 14, protowire.VarintType), 1)
}

// rewrite replaces the content of the fields with a number; those whose new content is nil go.
func rewrite(t *testing.T, message []byte, number protowire.Number, f func([]byte) []byte) []byte {
	t.Helper()
	var out []byte
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		m := protowire.ConsumeFieldValue(num, typ, message[max(n, 0):])
		if n < 0 || m < 0 {
			t.Fatal("the model is no protobuf message")
		}
		if num != number {
			out = append(out, message[:n+m]...)
		} else {
			content, _ := protowire.ConsumeBytes(message[n:])
			if content = f(content); content != nil {
				out = protowire.AppendBytes(protowire.AppendTag(out, num, typ), content)
			}
		}
		message = message[n+m:]
	}
	return out
}
