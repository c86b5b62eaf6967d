package render

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestTableIsPlainColumns(t *testing.T) {
	var out bytes.Buffer
	Table(&out, []Column{R("JOB"), L("MODEL"), R("IMG/S")}, [][]string{{"1", "mlp", "12,345"}, {"12", "cnn\x1b[2J", "9"}})
	want := "JOB  MODEL     IMG/S\n  1  mlp      12,345\n 12  cnn?[2J       9\n"
	if out.String() != want {
		t.Fatalf("got\n%q\nwant\n%q", out.String(), want)
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Count(0), "0"}, {Count(999), "999"}, {Count(1000), "1,000"}, {Count(-1234567), "-1,234,567"},
		{Rate(0), "-"}, {Rate(3.14), "3.1"}, {Rate(12345.6), "12,346"},
		{Percent(0.98312), "98.31 %"},
		{Millis(0.1234), "0.123"}, {Millis(1.234), "1.23"}, {Millis(12.34), "12.3"}, {Millis(1234), "1,234"},
		{Bytes(0), "0 B"}, {Bytes(1023), "1023 B"}, {Bytes(1536), "1.5 KiB"}, {Bytes(3 << 30), "3.0 GiB"},
		{ETA(100, 0), ""}, {ETA(100, 10), "ETA 10 s"}, {ETA(0, 10), ""},
		{Duration(250 * time.Millisecond), "0.2 s"}, {Duration(200 * time.Second), "3m20s"}, {Duration(125 * time.Minute), "2h05m"},
		{Time(time.Time{}), "-"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestPlainProgressTellsTheEndAndLines(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out)
	b := p.Bar("mlp 1-50", 50)
	b.Set(10, "early")
	p.Line("worker-%d killed", 2)
	b.Set(50, "done")
	share := p.Share("train mlp")
	share.SetShare(0.5, "half")
	share.SetShare(1, "stored")
	p.Close()
	got := out.String()
	if !strings.Contains(got, "worker-2 killed\n") || !strings.HasSuffix(got, "mlp 1-50  50/50  100 %  done\ntrain mlp  100 %  stored\n") {
		t.Fatalf("got %q", got)
	}
	if strings.Count(got, "50/50") != 1 || strings.Contains(got, "\x1b") {
		t.Fatalf("got %q", got)
	}
}
