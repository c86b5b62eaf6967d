//go:build !(linux || darwin || freebsd)

package embedded

import "errors"

// diskOf doesn't know: the store has no other limit than MaxStore.
func diskOf(string) (free, total int64, err error) {
	return 0, 0, errors.ErrUnsupported
}
