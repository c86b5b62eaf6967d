package worker

import (
	"os"
	"strings"
	"testing"
	"time"

	"idunno/broker/wire"
)

func TestProcessThatTakesTooMuchMemoryIsKilled(t *testing.T) {
	p := startLoaded(t, plenty, endless())
	p.most = 1 << 20
	_, err := p.predict(t.Context(), 1, firstBatch(t), "", time.Minute)
	if causeOf(err) != wire.CauseMemory || !isFault(err) || !strings.Contains(err.Error(), "allowed are 1;") {
		t.Fatalf("%v", err)
	}
	select {
	case <-p.gone:
	default:
		t.Error("the process is still there")
	}
}

func TestResidentMemory(t *testing.T) {
	if used := residentMemory(os.Getpid()); used < 1<<20 || used > 1<<40 {
		t.Errorf("this process has %d bytes", used)
	}
	if used := residentMemory(1 << 30); used != 0 {
		t.Errorf("no process has %d bytes", used)
	}
}
