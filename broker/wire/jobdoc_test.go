package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"idunno/broker/wire"
)

func TestParseJobDoc(t *testing.T) {
	for doc, want := range map[string]wire.JobDoc{
		`{"model":"mlp","from":1,"to":50}`:                               {Model: "mlp", Data: "mnist", From: 1, To: 50},
		` { "to" : 7 , "from":7,"model":"cnn@12","data":"my-set_1.0@3"}`: {Model: "cnn@12", Data: "my-set_1.0@3", From: 7, To: 7},
		`{"mod\u0065l":"m","from":1,"to":100000000}` + "\n":              {Model: "m", Data: "mnist", From: 1, To: wire.MaxBatch},
		`{"retry":12}`: {Retry: 12},
		`{"retry":12,"tasks":[4,2],"newest":true}`:     {Retry: 12, Tasks: []int{4, 2}, Newest: true},
		`{"newest":false,"retry":9223372036854775807}`: {Retry: 9223372036854775807},
		`{"train":"mlp"}`:          {Train: "mlp", Data: "mnist-train", Epochs: wire.DefaultEpochs("mlp"), Seed: wire.DefaultSeed},
		`{"train":"cnn","seed":2}`: {Train: "cnn", Data: "mnist-train", Epochs: wire.DefaultEpochs("cnn"), Seed: 2},
		`{"train":"cnn","epochs":1000,"seed":2147483647,"data":"x"}`: {Train: "cnn", Data: "x", Epochs: 1000, Seed: 2147483647},
	} {
		got, err := wire.ParseJobDoc([]byte(doc))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", doc, got, err, want)
		}
	}
}

// badDocs are refused: each with the field that the refusal names and words
// that tell what is wrong or what is allowed.
func badDocs() map[string][2]string {
	docs := map[string][2]string{
		// not a JSON object
		``:                                   {"document", "not a JSON object"},
		`mlp 1-50`:                           {"document", "not a JSON object"},
		`"mlp"`:                              {"document", "not a JSON object"},
		`null`:                               {"document", "not a JSON object"},
		`[{"model":"mlp"}]`:                  {"document", "not a JSON object"},
		`{`:                                  {"document", "not valid JSON"},
		`{"model":"mlp","from":1,"to":`:      {"document", "not valid JSON"},
		`{"model":"mlp" "from":1}`:           {"document", "not valid JSON"},
		`{model:"mlp"}`:                      {"document", "not valid JSON"},
		`{"model":"mlp","from":01,"to":2}`:   {"document", "not valid JSON"},
		"\x00\x01\x02":                       {"document", "not a JSON object"},
		`{"model":"mlp","from":1,"to":2} {}`: {"document", "text after"},
		`{"model":"mlp","from":1,"to":2}]`:   {"document", "text after"},
		// fields
		`{}`:                     {"model", "is missing"},
		`{"from":1,"to":2}`:      {"model", "is missing"},
		`{"model":"m","to":2}`:   {"from", "is missing"},
		`{"model":"m","from":2}`: {"to", "is missing"},
		`{"model":"m","from":1,"to":2,"urgency":9}`:    {"urgency", "allowed: model, data, from, to"},
		`{"Model":"m","from":1,"to":2}`:                {"model", "is missing"},
		`{"model":"m","from":1,"to":2,"To":3}`:         {`"To"`, "allowed: model, data, from, to"},
		`{"model":"m","from":1,"to":2,"\u001b[31m":3}`: {`"\x1b[31m"`, "allowed: model"},
		`{"model":"m","from":1,"to":2,"epochs":3}`:     {"epochs", "allowed: model, data, from, to"},
		`{"train":"mlp","from":1}`:                     {"from", "allowed: train, data, epochs, seed"},
		`{"train":"mlp","model":"mlp"}`:                {"train", "can't both"},
		`{"model":"m","from":1,"from":2,"to":3}`:       {"from", "given twice"},
		`{"model":"m","model":"m","from":1,"to":3}`:    {"model", "given twice"},
		// retries
		`{"retry":0}`:                               {"retry", "a whole number from 1"},
		`{"retry":"3"}`:                             {"retry", "a whole number from 1"},
		`{"retry":3,"model":"m"}`:                   {"retry", "allowed: retry, tasks, newest"},
		`{"retry":3,"from":1,"to":2}`:               {"", "allowed: retry, tasks, newest"},
		`{"retry":3,"train":"mlp"}`:                 {"retry", "allowed: retry, tasks, newest"},
		`{"retry":3,"tasks":[]}`:                    {"tasks", "a list of 1 to 1000"},
		`{"retry":3,"tasks":null}`:                  {"tasks", "a list of 1 to 1000"},
		`{"retry":3,"tasks":[1.5]}`:                 {"tasks", "a list of 1 to 1000"},
		`{"retry":3,"tasks":[0]}`:                   {"tasks", "allowed: 1 to 10000000"},
		`{"retry":3,"newest":1}`:                    {"newest", "true or false"},
		`{"model":"m","from":1,"to":2,"tasks":[1]}`: {"tasks", "allowed: model, data, from, to"},
		// names
		`{"model":5,"from":1,"to":2}`:                {"model", "a string"},
		`{"model":null,"from":1,"to":2}`:             {"model", "a string"},
		`{"model":["mlp"],"from":1,"to":2}`:          {"model", "a string"},
		`{"model":"","from":1,"to":2}`:               {"model", "lower-case letters"},
		`{"model":"MLP","from":1,"to":2}`:            {"model", "lower-case letters"},
		`{"model":"../etc/passwd","from":1,"to":2}`:  {"model", "lower-case letters"},
		`{"model":"mlp@0","from":1,"to":2}`:          {"model", "@N for version N"},
		`{"model":"mlp@-1","from":1,"to":2}`:         {"model", "@N for version N"},
		`{"model":"mlp@1@2","from":1,"to":2}`:        {"model", "@N for version N"},
		`{"model":"m","data":7,"from":1,"to":2}`:     {"data", "a string"},
		`{"model":"m","data":"a b","from":1,"to":2}`: {"data", "lower-case letters"},
		`{"model":"m","data":"a.>","from":1,"to":2}`: {"data", "lower-case letters"},
		`{"train":"resnet"}`:                         {"train", "allowed: mlp, cnn"},
		`{"train":"mlp@2"}`:                          {"train", "allowed: mlp, cnn"},
		`{"train":{}}`:                               {"train", "a string"},
		// ranges
		`{"model":"m","from":5,"to":4}`: {"from", "allowed: 1 to 4"},
		`{"train":"mlp","epochs":0}`:    {"epochs", "from 1 to 1000"},
		`{"train":"mlp","epochs":1001}`: {"epochs", "from 1 to 1000"},
		`{"train":"mlp","seed":0}`:      {"seed", "from 1 to"},
		`{"train":"mlp","seed":-1}`:     {"seed", "from 1 to"},
	}
	for _, number := range []string{"0", "-1", "-0", "1.5", "1.0", "1e3", "100000001", "9223372036854775808",
		"99999999999999999999999999999999", "null", "true", `"1"`, "[1]", "{}"} {
		docs[fmt.Sprintf(`{"model":"m","from":%s,"to":9}`, number)] = [2]string{"from", "a whole number from 1 to 100000000"}
		docs[fmt.Sprintf(`{"model":"m","from":1,"to":%s}`, number)] = [2]string{"to", "a whole number from 1 to 100000000"}
		docs[fmt.Sprintf(`{"train":"mlp","epochs":%s}`, number)] = [2]string{"epochs", "a whole number from 1 to 1000"}
	}
	delete(docs, `{"train":"mlp","epochs":100000001}`)
	garbage := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(garbage)
	docs[string(garbage)] = [2]string{"document", "at most 16384"}
	docs[string(garbage[:wire.MaxJobDoc])] = [2]string{"document", "not a JSON object"}
	docs[strings.Repeat(" ", wire.MaxJobDoc+1)] = [2]string{"document", "at most 16384"}
	docs[strings.Repeat(" ", wire.MaxJobDoc)] = [2]string{"document", "not a JSON object"}
	docs[`{"model":`+strings.Repeat("[", 16000)] = [2]string{"document", "not valid JSON"}
	docs[`{"model":"`+strings.Repeat("m", 15000)+`","from":1,"to":2}`] = [2]string{"model", "at most 64"}
	docs[`{"model":"m","from":1,"to":`+strings.Repeat("9", 15000)+`}`] = [2]string{"to", "a whole number"}
	docs[`{"`+strings.Repeat("x", 15000)+`":1,"model":"m"}`] = [2]string{"", "allowed: model, data, from, to"}
	docs[`{"model":`+strings.Repeat("[", 8000)+strings.Repeat("]", 8000)+`}`] = [2]string{"model", "a string"}
	return docs
}

func TestBadJobDocsAreRefusedWithTheFieldAndWhatIsAllowed(t *testing.T) {
	for doc, want := range badDocs() {
		short := doc
		if len(short) > 60 {
			short = short[:60] + "…"
		}
		_, err := wire.ParseJobDoc([]byte(doc))
		var refusal *wire.Error
		if !errors.As(err, &refusal) {
			t.Errorf("%q: %v, want a refusal", short, err)
			continue
		}
		if refusal.Code != wire.CodeBadDocument || want[0] != "" && refusal.Field != want[0] {
			t.Errorf("%q: code %s, field %s; want field %s (%s)", short, refusal.Code, refusal.Field, want[0], refusal.Message)
		}
		if !strings.Contains(refusal.Message, want[1]) || !strings.HasPrefix(refusal.Message, refusal.Field+" ") {
			t.Errorf("%q: %q does not say %q", short, refusal.Message, want[1])
		}
		if !strings.Contains(refusal.Message, "allowed") && !strings.Contains(refusal.Message, "at most") {
			t.Errorf("%q: %q does not say what is allowed", short, refusal.Message)
		}
		if len(refusal.Message) > 400 {
			t.Errorf("%q: a message of %d bytes", short, len(refusal.Message))
		}
		for _, c := range refusal.Message {
			if c < ' ' {
				t.Errorf("%q: control character %q in %q", short, c, refusal.Message)
			}
		}
		if p, err := json.Marshal(refusal); err != nil || !json.Valid(p) {
			t.Errorf("%q: the refusal can't be sent: %v", short, err)
		}
	}
}

func FuzzParseJobDoc(f *testing.F) {
	for doc := range badDocs() {
		if len(doc) < 1000 {
			f.Add([]byte(doc))
		}
	}
	f.Add([]byte(`{"model":"mlp","from":1,"to":50}`))
	f.Add([]byte(`{"retry":3,"tasks":[1,7,2],"newest":true}`))
	f.Add([]byte(`{"train":"cnn","epochs":3,"seed":9,"data":"x"}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		d, err := wire.ParseJobDoc(p)
		if err != nil {
			var refusal *wire.Error
			if !errors.As(err, &refusal) || refusal.Field == "" || len(refusal.Message) > 600 {
				t.Fatalf("%q: %v", p, err)
			}
			return
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := wire.ParseJobDoc(again); err != nil || !reflect.DeepEqual(got, d) {
			t.Fatalf("%q became %s, and that %+v, %v", p, again, got, err)
		}
		if d.Retry != 0 {
			if d.Target() != "" || d.Data != "" || d.From != 0 || d.To != 0 || len(d.Tasks) > wire.MaxRetryTasks || slices.ContainsFunc(d.Tasks, func(n int) bool { return n < 1 }) {
				t.Fatalf("accepted %+v", d)
			}
			return
		}
		if d.Newest || d.Tasks != nil || d.Training() == (d.Model != "") || !wire.ValidRef(d.Target()) || !wire.ValidRef(d.Data) || d.From > d.To {
			t.Fatalf("accepted %+v", d)
		}
	})
}
