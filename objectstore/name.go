package objectstore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxName    = 200
	maxVersion = 999_999_999
)

// CheckName says whether name can be a file's name: 1 to 200 letters, digits
// and . _ - / in segments that are neither empty nor "." nor "..". It returns
// [ErrBadName].
func CheckName(name string) error {
	const rule = "allowed: letters, digits and . _ - / (at most 200), such as \"models/mlp\""
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: %d characters; %s", ErrBadName, len(name), rule)
	}
	for _, c := range []byte(name) {
		if !nameByte(c) {
			return fmt.Errorf("%w %q; %s", ErrBadName, name, rule)
		}
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%w %q: no part between slashes may be empty, \".\" or \"..\"; %s", ErrBadName, name, rule)
		}
	}
	return nil
}

func nameByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return c == '.' || c == '_' || c == '-' || c == '/'
}

// ParseRef splits a reference, "name" or "name@3", into the file's name and the
// version, 0 for the newest. It returns [ErrBadName].
func ParseRef(ref string) (name string, version int, err error) {
	name, suffix, pinned := strings.Cut(ref, "@")
	if err := CheckName(name); err != nil {
		return "", 0, err
	}
	if !pinned {
		return name, 0, nil
	}
	n, err := strconv.Atoi(suffix)
	if err != nil || n < 1 || n > maxVersion || suffix != strconv.Itoa(n) {
		return "", 0, fmt.Errorf("%w: version %.20q of %s; allowed: a whole number from 1, such as %s@3", ErrBadName, suffix, name, name)
	}
	return name, n, nil
}

// FormatRef is the inverse of [ParseRef].
func FormatRef(name string, version int) string {
	if version == 0 {
		return name
	}
	return name + "@" + strconv.Itoa(version)
}

// Keys of the index: one a file, and one an object that something refers to. In
// a key a dot separates tokens, so the dots of a name are written "=2e".
const (
	keyFile    = "file."
	keyFiles   = keyFile + "*"
	keyRecord  = "object."
	keyRecords = keyRecord + "*"
)

func keyOf(name string) string { return keyFile + strings.ReplaceAll(name, ".", "=2e") }

// digestOf is the name of an object with the given contents' hash.
func digestOf(sum []byte) string { return hex.EncodeToString(sum) }

// isDigest reports whether s is 64 lower-case hexadecimal digits.
func isDigest(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func checkDigest(digest string) error {
	if !isDigest(digest) {
		return fmt.Errorf("%w: digest %.80q; allowed: 64 lower-case hexadecimal digits", ErrBadName, digest)
	}
	return nil
}
