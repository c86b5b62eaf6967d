package objectstore

import "errors"

var (
	// ErrNotFound is returned when a file, a version or an object doesn't exist.
	ErrNotFound = errors.New("not found")
	// ErrCorrupt is returned when stored bytes don't have the digest they are stored under.
	ErrCorrupt = errors.New("contents are damaged")
	// ErrBadName is returned when a name can't be a file's, or a digest isn't one.
	ErrBadName = errors.New("bad name")
	// ErrTooLarge is returned when contents exceed a limit.
	ErrTooLarge = errors.New("too large")
	// ErrTooManyVersions is returned when a file has so many recent versions
	// that none may be dropped for a new one.
	ErrTooManyVersions = errors.New("too many versions")
	// ErrBadBundle is returned when a manifest doesn't list its parts properly.
	ErrBadBundle = errors.New("bad bundle")
	// ErrChanged is returned when a file changed while it was being stored.
	ErrChanged = errors.New("the file changed while it was read")
	// ErrInterrupted is returned when a transfer stopped half-way.
	ErrInterrupted = errors.New("transfer interrupted")
	// ErrFull is returned when there is no room for what was to be stored.
	ErrFull = errors.New("the store is full: remove files with `idunno sdfs rm`, or give the servers more room with --max-store")
	// ErrBusy is returned when other writers kept winning.
	ErrBusy = errors.New("too many concurrent changes")
)

// errStored ends an upload early: someone else has stored the same bytes.
var errStored = errors.New("stored meanwhile")
