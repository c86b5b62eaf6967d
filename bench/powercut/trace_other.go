//go:build !(linux && amd64)

package powercut

import "io"

// Process is a traced program. There are none here.
type Process struct{}

// Start returns [ErrUnsupported].
func Start(Config, io.Writer, io.Writer) (*Process, error) { return nil, ErrUnsupported }

// Stats is empty here.
func (p *Process) Stats() Stats { return Stats{} }

// Cut returns [ErrUnsupported].
func (p *Process) Cut(string) error { return ErrUnsupported }
