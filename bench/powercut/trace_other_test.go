//go:build !(linux && amd64)

package powercut

import (
	"errors"
	"io"
	"testing"
)

func TestUnsupported(t *testing.T) {
	if _, err := Start(Config{Dir: t.TempDir()}, io.Discard, io.Discard); !errors.Is(err, ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
}
