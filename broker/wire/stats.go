package wire

import "time"

// Stats are the statistics of a set of batches: times in milliseconds, of the
// processing of one batch; percentiles from an HdrHistogram with three
// significant digits, everything else exact.
type Stats struct {
	Batches  int64   `json:"batches"`
	Images   int64   `json:"images"`
	Accuracy float64 `json:"accuracy"`
	// Loss is the mean cross-entropy per labelled image, natural logarithm.
	Loss float64 `json:"loss"`
	// Rate is images per second over the last 10 s, BatchRate batches per second.
	Rate      float64 `json:"rate"`
	BatchRate float64 `json:"batch_rate"`
	// ImagesPerSecond is the rate over the whole time from the first task's
	// start to the last result.
	ImagesPerSecond float64 `json:"images_per_s"`
	MeanMs          float64 `json:"mean_ms"`
	SdMs            float64 `json:"sd_ms"`
	VarianceMs2     float64 `json:"variance_ms2"`
	P50Ms           float64 `json:"p50_ms"`
	P90Ms           float64 `json:"p90_ms"`
	P95Ms           float64 `json:"p95_ms"`
	P99Ms           float64 `json:"p99_ms"`
	MinMs           float64 `json:"min_ms"`
	MaxMs           float64 `json:"max_ms"`
}

// NodeStats are a node's part in a job, or in all jobs.
type NodeStats struct {
	Node string `json:"node"`
	Stats
	// Tasks is the number of tasks whose result came from the node.
	Tasks int64 `json:"tasks"`
	// Raw is set in stored records only.
	Raw *RawStats `json:"raw,omitempty"`
}

// JobStats are the statistics of a job.
type JobStats struct {
	Job   uint64 `json:"job"`
	Model string `json:"model"`
	Data  string `json:"data"`
	From  int    `json:"from"`
	To    int    `json:"to"`
	Train string `json:"train,omitempty"`
	// Retry is the job whose failed tasks this one does again.
	Retry uint64 `json:"retry,omitempty"`
	// Rounds is how often the range is done, 0 for once; Forever says that it is done
	// until the job is cancelled.
	Rounds  int  `json:"rounds,omitempty"`
	Forever bool `json:"forever,omitempty"`
	// BatchSize is the number of images in a batch, 0 for as many as in those stored.
	BatchSize int   `json:"batch_size,omitempty"`
	State     State `json:"state"`
	// Reason says why the job ended as it did, or what it waits for.
	Reason string `json:"reason,omitempty"`
	// Total is the number of batches asked for; Stats.Batches those done.
	Total int `json:"total_batches"`
	// Failed is the number of batches that failed for good.
	Failed int `json:"failed_batches"`
	Stats
	Started time.Time   `json:"started,omitzero"`
	Last    time.Time   `json:"last_result,omitzero"`
	Nodes   []NodeStats `json:"nodes"`
}

// RawStats are the sums behind a node's statistics. They are kept in the record
// of an ended job so that statistics over several jobs merge exactly.
type RawStats struct {
	Labeled int64   `json:"labeled"`
	Correct int64   `json:"correct"`
	LossSum float64 `json:"loss_sum"`
	// SumNs and SumSq are the sum of the batch times in nanoseconds and of
	// their squares, the latter as a 128-bit number.
	SumNs   uint64    `json:"sum_ns"`
	SumSq   [2]uint64 `json:"sum_sq"`
	MinNs   int64     `json:"min_ns"`
	MaxNs   int64     `json:"max_ns"`
	Batches int64     `json:"batches"`
	Images  int64     `json:"images"`
	Tasks   int64     `json:"tasks"`
	// Times is the HdrHistogram of the batch times in its compressed V2 form.
	Times []byte `json:"times"`
}
