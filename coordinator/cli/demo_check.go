package cli

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/zoo"
)

// demoDoc is the document of demo --json.
type demoDoc struct {
	Schema     int          `json:"schema_version"`
	Jobs       []demoJobRow `json:"jobs"`
	Nodes      []demoNode   `json:"nodes"`
	Killed     demoKilled   `json:"killed"`
	Missing    int          `json:"missing"`
	Duplicates int          `json:"duplicates"`
	Identical  bool         `json:"identical_to_single_process"`

	differing, images int
}

type demoJobRow struct {
	Job   uint64     `json:"job"`
	Model string     `json:"model"`
	From  int        `json:"from"`
	To    int        `json:"to"`
	State wire.State `json:"state"`
	demoFigures
}

type demoNode struct {
	Node   string `json:"node"`
	Killed bool   `json:"killed"`
	Tasks  int64  `json:"tasks"`
	demoFigures
}

type demoKilled struct {
	Node      string  `json:"node"`
	ResumedMs float64 `json:"resumed_ms"`
}

// demoFigures are the statistics of a job or a node.
type demoFigures struct {
	Batches         int64   `json:"batches"`
	Images          int64   `json:"images"`
	Accuracy        float64 `json:"accuracy"`
	Loss            float64 `json:"loss"`
	MeanMs          float64 `json:"mean_ms"`
	SdMs            float64 `json:"sd_ms"`
	VarianceMs2     float64 `json:"variance_ms2"`
	P50Ms           float64 `json:"p50_ms"`
	P95Ms           float64 `json:"p95_ms"`
	P99Ms           float64 `json:"p99_ms"`
	ImagesPerSecond float64 `json:"images_per_s"`
}

func figures(s wire.Stats) demoFigures {
	return demoFigures{s.Batches, s.Images, s.Accuracy, s.Loss, s.MeanMs, s.SdMs, s.VarianceMs2, s.P50Ms, s.P95Ms, s.P99Ms, s.ImagesPerSecond}
}

// check counts the results in the stream and compares them with a run of the same
// models over the same images in this process alone.
func (d *demo) check(ctx context.Context, stats *wire.StatsReply) (*demoDoc, error) {
	doc := &demoDoc{Schema: render.Schema, Killed: demoKilled{d.victim.node, float64(d.victim.resumed.Microseconds()) / 1000}}
	for _, j := range d.jobs {
		doc.Jobs = append(doc.Jobs, demoJobRow{j.job, j.doc.Model, j.doc.From, j.doc.To, j.stats.State, figures(j.stats.Stats)})
	}
	for _, n := range stats.Nodes {
		doc.Nodes = append(doc.Nodes, demoNode{n.Node, n.Node == d.victim.node, n.Tasks, figures(n.Stats)})
	}
	d.talk("\nComputing all of it again in this process alone, to compare.")
	alone, err := d.alone(ctx)
	if err != nil {
		return nil, fmt.Errorf("compute in a single process: %w", err)
	}
	for _, j := range d.jobs {
		o, err := cluster.Collect(ctx, d.api, j.job, j.doc.From, j.doc.To)
		if err != nil {
			return nil, err
		}
		doc.Missing += o.Missing
		doc.Duplicates += o.Duplicates
		doc.differing += o.Differing(alone[j.doc.Model])
		for _, b := range o.Batches {
			doc.images += b.Images
		}
	}
	doc.Identical = doc.differing == 0 && doc.Missing == 0
	return doc, nil
}

// alone runs every model over all batches that it was asked for.
func (d *demo) alone(ctx context.Context) (map[string]map[int]*models.Prediction, error) {
	set, err := dataset.MNISTTest()
	if err != nil {
		return nil, err
	}
	first, last := map[string]int{}, map[string]int{}
	total := int64(0)
	for _, j := range d.jobs {
		m := j.doc.Model
		if first[m] == 0 || j.doc.From < first[m] {
			first[m] = j.doc.From
		}
		last[m] = max(last[m], j.doc.To)
		total += int64(j.doc.To - j.doc.From + 1)
	}
	p := render.NewProgress(d.stderr)
	defer p.Close()
	bar := p.Bar("single process", total)
	var done atomic.Int64
	out := map[string]map[int]*models.Prediction{}
	for _, name := range zoo.Names() {
		onnx, ok := zoo.Model(name)
		if !ok || first[name] == 0 {
			continue
		}
		out[name], err = cluster.RunAlone(ctx, onnx, set, cluster.BatchSize, first[name], last[name], runtime.NumCPU(),
			func() { bar.Set(done.Add(1), name) })
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// failure says which check does not hold, nil when all do.
func (doc *demoDoc) failure() error {
	for _, j := range doc.Jobs {
		if j.State == wire.StateDoneWithFailures {
			return &codeError{ExitFailures, fmt.Sprintf("job %d finished with failed batches", j.Job)}
		}
		if j.State != wire.StateDone {
			return fmt.Errorf("job %d is %s", j.Job, stateWord(j.State))
		}
	}
	if doc.Missing > 0 || doc.Duplicates > 0 || !doc.Identical {
		return fmt.Errorf("the check failed: %d batches missing, %d duplicates, %d differ from a single-process run", doc.Missing, doc.Duplicates, doc.differing)
	}
	return nil
}

// show prints the answer.
func (d *demo) show(stats *wire.StatsReply, doc *demoDoc) error {
	if d.json {
		return render.JSON(d.stdout, doc)
	}
	var jobs []wire.JobStats
	for _, j := range d.jobs {
		jobs = append(jobs, j.stats)
	}
	for i := range stats.Nodes {
		if stats.Nodes[i].Node == d.victim.node {
			stats.Nodes[i].Node += " (killed)"
		}
	}
	fmt.Fprintln(d.stdout)
	printStats(d.stdout, jobs, stats.Nodes)
	asked := int64(0)
	for _, j := range d.jobs {
		asked += int64(j.doc.To - j.doc.From + 1)
	}
	fmt.Fprintf(d.stdout, "\n%s killed; its work resumed %.0f ms later on %s\n", d.victim.node, doc.Killed.ResumedMs, d.victim.by)
	fmt.Fprintf(d.stdout, "%s batches asked for: %d missing, %d duplicates\n", render.Count(asked), doc.Missing, doc.Duplicates)
	same := "equal to a single-process run, bit for bit"
	if !doc.Identical {
		same = fmt.Sprintf("%d batches DIFFER from a single-process run", doc.differing)
	}
	_, err := fmt.Fprintf(d.stdout, "%s predictions: %s\n", render.Count(int64(doc.images)), same)
	return err
}
