package wire

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Settings are what users set for the whole cluster. Zero values are the defaults.
type Settings struct {
	Schema int `json:"schema_version"`
	// Fair is the unit in which running jobs progress at equal rates, one of
	// [FairUnits]; "" means batches.
	Fair string `json:"fair,omitempty"`
	// Phase restricts what runs, one of [Phases]; "" means both.
	Phase string `json:"phase,omitempty"`
	// BatchSizes are the images in a batch of jobs that name none, by model.
	BatchSizes map[string]int `json:"batch_sizes,omitempty"`
	// ResultRetention is how long the results of ended jobs are kept; 0 means for ever.
	ResultRetention time.Duration `json:"result_retention_ns,omitempty"`
	// ForeverRounds is how many whole rounds a job that runs for ever keeps the results
	// of; 0 means [DefaultForeverRounds].
	ForeverRounds int `json:"forever_rounds,omitempty"`
}

// DefaultForeverRounds is how many rounds are kept unless the user chooses.
const DefaultForeverRounds = 10

// KeptRounds is how many rounds a job that runs for ever keeps.
func (s *Settings) KeptRounds() int {
	if s.ForeverRounds == 0 {
		return DefaultForeverRounds
	}
	return s.ForeverRounds
}

// Units of fairness.
const (
	FairBatches = "batches"
	FairImages  = "images"
	FairTime    = "time"
)

// FairUnits lists the units of fairness.
func FairUnits() []string { return []string{FairBatches, FairImages, FairTime} }

// Phases of a cluster.
const (
	PhaseBoth  = "both"
	PhaseTrain = "train"
	PhaseInfer = "infer"
)

// Phases lists the phases.
func Phases() []string { return []string{PhaseBoth, PhaseTrain, PhaseInfer} }

// MaxBatchSizes bounds the models that have a batch size of their own.
const MaxBatchSizes = 1000

// Runs reports whether jobs of a kind may run.
func (s *Settings) Runs(training bool) bool {
	switch s.Phase {
	case PhaseTrain:
		return training
	case PhaseInfer:
		return !training
	}
	return true
}

// Marshal encodes the settings.
func (s *Settings) Marshal() []byte { return mustMarshal(s) }

// ParseSettings decodes settings and checks them. Its errors are *[Error] values.
func ParseSettings(p []byte) (*Settings, error) {
	var s Settings
	if err := json.Unmarshal(p, &s); err != nil {
		return nil, fieldErr("settings", "are not understood (%v)", err)
	}
	if s.Fair != "" && !slices.Contains(FairUnits(), s.Fair) {
		return nil, fieldErr("fair", "is %q; allowed: %s", excerptString(s.Fair), strings.Join(FairUnits(), ", "))
	}
	if s.Phase != "" && !slices.Contains(Phases(), s.Phase) {
		return nil, fieldErr("phase", "is %q; allowed: %s", excerptString(s.Phase), strings.Join(Phases(), ", "))
	}
	if s.ResultRetention < 0 {
		return nil, fieldErr("result_retention_ns", "is %d; allowed: 0 for ever, or a positive time", s.ResultRetention)
	}
	if s.ForeverRounds < 0 || s.ForeverRounds > MaxRounds {
		return nil, fieldErr("forever_rounds", "is %d; allowed: 1 to %d, or 0 for %d", s.ForeverRounds, MaxRounds, DefaultForeverRounds)
	}
	if len(s.BatchSizes) > MaxBatchSizes {
		return nil, fieldErr("batch_sizes", "has %d models; allowed: at most %d", len(s.BatchSizes), MaxBatchSizes)
	}
	for model, n := range s.BatchSizes {
		if !ValidRef(model) || strings.Contains(model, "@") {
			return nil, fieldErr("batch_sizes", "names %s; allowed: names of models without a version", printable(model))
		}
		if n < 1 || n > MaxJobBatch {
			return nil, fieldErr("batch_sizes", "has %s for %s; allowed: 1 to %d", fmt.Sprint(n), model, MaxJobBatch)
		}
	}
	return &s, nil
}
