package dataset

import "errors"

var (
	// ErrFormat is returned when bytes are not what their format promises: a
	// batch that is no safetensors file, a broken IDX header, a manifest whose
	// numbers contradict each other.
	ErrFormat = errors.New("not in the expected format")
	// ErrTooLarge is returned when an input announces or holds more than the
	// reader was told to accept.
	ErrTooLarge = errors.New("larger than allowed")
	// ErrNotFound is returned when a folder lacks a file that a set needs.
	ErrNotFound = errors.New("data file not found")
	// ErrChecksum is returned when data is complete but is not the data it
	// should be.
	ErrChecksum = errors.New("checksum differs")
	// ErrRange is returned for a batch number outside 1..Batches or a batch size
	// below 1.
	ErrRange = errors.New("out of range")
)
