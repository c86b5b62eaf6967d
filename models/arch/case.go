package arch

// Case is a variant of an architecture with what another runtime makes of its first samples. testdata holds such cases as JSON, one a file.
type Case struct {
	Network string      `json:"network"`
	Config  Config      `json:"config"`
	Batch   int         `json:"batch"`   // number of samples
	Outputs [][]float32 `json:"outputs"` // a row for each
}
