package wire

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// Tasks, results and heartbeats come by the ten thousand a second, and encoding/json
// takes longer for them than everything else a coordinator does. Their usual form is
// written and read here, byte for byte as encoding/json would; whatever is in any
// other form goes to encoding/json.

// line appends the usual form of a JSON object, field by field. Ok is false when a
// value has no plain form: what has been appended is worth nothing then.
type line struct {
	p  []byte
	ok bool
}

// text appends what is known beforehand.
func (l *line) text(s string) { l.p = append(l.p, s...) }

func (l *line) int(key string, n int64) {
	l.p = strconv.AppendInt(append(l.p, key...), n, 10)
}

func (l *line) uint(key string, n uint64) {
	l.p = strconv.AppendUint(append(l.p, key...), n, 10)
}

func (l *line) bool(key string, v bool) {
	l.p = strconv.AppendBool(append(l.p, key...), v)
}

// someInt and someString leave out what is zero, as "omitempty" does.
func (l *line) someInt(key string, n int) {
	if n != 0 {
		l.int(key, int64(n))
	}
}

func (l *line) someBool(key string, v bool) {
	if v {
		l.bool(key, v)
	}
}

func (l *line) someString(key, s string) {
	if s != "" {
		l.string(key, s)
	}
}

func (l *line) string(key, s string) {
	for i := range len(s) {
		l.ok = l.ok && asIs(s[i])
	}
	l.p = append(append(append(append(l.p, key...), '"'), s...), '"')
}

// asIs reports whether a byte stands for itself in a JSON string.
func asIs(c byte) bool {
	return c >= ' ' && c < 0x7f && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
}

func (l *line) time(key string, t time.Time) {
	p, err := t.AppendText(append(append(l.p, key...), '"'))
	l.p, l.ok = append(p, '"'), l.ok && err == nil
}

func (l *line) float(key string, f float64) {
	size := math.Abs(f)
	l.ok = l.ok && (f == 0 || size >= 1e-6 && size < 1e21) // others are written with an exponent
	l.p = strconv.AppendFloat(append(l.p, key...), f, 'f', -1, 64)
}

// scan reads the usual form. Ok is false from the first thing on that is something else.
type scan struct {
	p  []byte
	ok bool
}

// has passes over a text when it comes next, and reports whether it did.
func (s *scan) has(text string) bool {
	if len(s.p) < len(text) || string(s.p[:len(text)]) != text {
		return false
	}
	s.p = s.p[len(text):]
	return true
}

// want passes over a text that has to come next.
func (s *scan) want(text string) { s.ok = s.has(text) && s.ok }

// digits passes over the digits that come next, and returns how many they are.
func (s *scan) digits() (n int) {
	for n < len(s.p) && s.p[n] >= '0' && s.p[n] <= '9' {
		n++
	}
	s.p = s.p[n:]
	return n
}

// uint reads a number of at most 18 digits behind a key.
func (s *scan) uint(key string) (v uint64) {
	s.want(key)
	from := s.p
	n := s.digits()
	if n == 0 || n > 18 || n > 1 && from[0] == '0' {
		s.ok = false
		return 0
	}
	for _, c := range from[:n] {
		v = 10*v + uint64(c-'0')
	}
	return v
}

func (s *scan) int(key string) int { return int(s.uint(key)) }

func (s *scan) int64(key string) int64 { return int64(s.uint(key)) }

// someInt and the like read what may be left out.
func (s *scan) someInt(key string) int {
	if !s.has(key) {
		return 0
	}
	return s.int("")
}

func (s *scan) bool(key string) bool {
	s.want(key)
	if s.has("true") {
		return true
	}
	s.want("false")
	return false
}

func (s *scan) someBool(key string) bool { return s.has(key) && s.bool("") }

func (s *scan) string(key string) string {
	s.want(key)
	s.want(`"`)
	for i, c := range s.p {
		if c == '"' {
			v := string(s.p[:i])
			s.p = s.p[i+1:]
			return v
		}
		if !asIs(c) {
			break
		}
	}
	s.ok = false
	return ""
}

func (s *scan) someString(key string) string {
	if !s.has(key) {
		return ""
	}
	return s.string("")
}

func (s *scan) time(key string) (t time.Time) {
	if err := t.UnmarshalText([]byte(s.string(key))); err != nil {
		s.ok = false
	}
	return t
}

// float reads a number without an exponent.
func (s *scan) float(key string) float64 {
	s.want(key)
	from := s.p
	whole := s.digits()
	if whole == 0 || whole > 1 && from[0] == '0' || s.has(".") && s.digits() == 0 {
		s.ok = false
	}
	v, err := strconv.ParseFloat(string(from[:len(from)-len(s.p)]), 64)
	s.ok = s.ok && err == nil
	return v
}

// end reports whether all of it was in the usual form.
func (s *scan) end() bool { return s.ok && len(s.p) == 0 }

// line encodes a task.
func (t *Task) line() []byte {
	if t.Train != "" || t.Epochs != 0 || t.Seed != 0 {
		return mustMarshal(t)
	}
	l := line{make([]byte, 0, 320), true}
	l.int(`{"v":`, int64(t.Schema))
	l.uint(`,"job":`, t.Job)
	l.int(`,"task":`, int64(t.Task))
	l.string(`,"model":`, t.Model)
	l.someString(`,"model_digest":`, t.ModelDigest)
	l.string(`,"data_digest":`, t.DataDigest)
	l.someInt(`,"from":`, t.From)
	l.someInt(`,"to":`, t.To)
	l.someString(`,"outputs":`, t.Outputs)
	l.someInt(`,"batch_size":`, t.BatchSize)
	l.someBool(`,"check":`, t.Check)
	l.text("}")
	if !l.ok {
		return mustMarshal(t)
	}
	return l.p
}

// readLine decodes a task.
func (t *Task) readLine(p []byte) error {
	s := scan{p, true}
	*t = Task{Schema: s.int(`{"v":`), Job: s.uint(`,"job":`), Task: s.int(`,"task":`), Model: s.string(`,"model":`), ModelDigest: s.someString(`,"model_digest":`),
		DataDigest: s.string(`,"data_digest":`), From: s.someInt(`,"from":`), To: s.someInt(`,"to":`), Outputs: s.someString(`,"outputs":`),
		BatchSize: s.someInt(`,"batch_size":`), Check: s.someBool(`,"check":`)}
	if s.want("}"); s.end() {
		return nil
	}
	*t = Task{}
	return json.Unmarshal(p, t)
}

// line encodes the figures of a result. Room is how many bytes are to follow.
func (r *Result) line(room int) []byte {
	if r.Error != "" || r.Trained != nil || len(r.Tried) > 0 || r.Outside != nil || len(r.Batches) == 0 {
		return mustMarshal(r)
	}
	l := line{make([]byte, 0, 160+128*len(r.Batches)+room), true}
	l.int(`{"v":`, int64(r.Schema))
	l.uint(`,"job":`, r.Job)
	l.int(`,"task":`, int64(r.Task))
	l.someInt(`,"from":`, r.From)
	l.someInt(`,"to":`, r.To)
	l.string(`,"node":`, r.Node)
	l.int(`,"attempt":`, int64(r.Attempt))
	l.time(`,"started":`, r.Started)
	for i := range r.Batches {
		if i == 0 {
			l.text(`,"batches":[`)
		} else {
			l.text(`,`)
		}
		r.Batches[i].line(&l)
	}
	l.text("]}")
	if !l.ok {
		return mustMarshal(r)
	}
	return l.p
}

func (b *BatchResult) line(l *line) {
	l.ok = l.ok && b.Output == nil
	l.int(`{"batch":`, int64(b.Batch))
	l.int(`,"images":`, int64(b.Images))
	l.bool(`,"labeled":`, b.Labeled)
	l.int(`,"correct":`, int64(b.Correct))
	l.float(`,"loss_sum":`, b.LossSum)
	l.int(`,"ns":`, b.Nanos)
	l.someBool(`,"probs":`, b.Probs)
	l.someBool(`,"narrow":`, b.Narrow)
	l.text("}")
}

// readLine decodes the figures of a result.
func (r *Result) readLine(p []byte) error {
	s := scan{p, true}
	*r = Result{Schema: s.int(`{"v":`), Job: s.uint(`,"job":`), Task: s.int(`,"task":`), From: s.someInt(`,"from":`), To: s.someInt(`,"to":`),
		Node: s.string(`,"node":`), Attempt: s.int(`,"attempt":`), Started: s.time(`,"started":`)}
	for more := s.has(`,"batches":[`); more && s.ok; more = s.has(",") {
		r.Batches = append(r.Batches, BatchResult{Batch: s.int(`{"batch":`), Images: s.int(`,"images":`), Labeled: s.bool(`,"labeled":`),
			Correct: s.int(`,"correct":`), LossSum: s.float(`,"loss_sum":`), Nanos: s.int64(`,"ns":`), Probs: s.someBool(`,"probs":`), Narrow: s.someBool(`,"narrow":`)})
		s.want("}")
	}
	if s.want("]}"); s.end() {
		return nil
	}
	*r = Result{}
	return json.Unmarshal(p, r)
}

// line encodes a heartbeat.
func (h *Heartbeat) line() []byte {
	head := *h
	head.InFlight, head.Batches, head.Images = nil, 0, 0
	p := mustMarshal(&head)
	l := line{make([]byte, 0, len(p)+32+120*len(h.InFlight)), true}
	l.p = append(l.p, p[:len(p)-1]...)
	for i := range h.InFlight {
		if i == 0 {
			l.text(`,"in_flight":[`)
		} else {
			l.text(`,`)
		}
		t := &h.InFlight[i]
		l.uint(`{"job":`, t.Job)
		l.int(`,"task":`, int64(t.Task))
		l.string(`,"reply":`, t.Reply)
		l.someBool(`,"started":`, t.Started)
		l.someBool(`,"copy":`, t.Copy)
		l.text("}")
	}
	if len(h.InFlight) > 0 {
		l.text("]")
	}
	l.someInt(`,"batches":`, int(h.Batches))
	l.someInt(`,"images":`, int(h.Images))
	l.text("}")
	if !l.ok {
		return mustMarshal(h)
	}
	return l.p
}
