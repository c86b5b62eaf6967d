package cluster

import (
	"os"
	"path/filepath"
)

// What a store directory holds beside what its user puts there.
const (
	lockFile = "lock"
	cacheDir = "cache"
	// queueDir is the name that the server gives to its part.
	queueDir = "jetstream"
	// ownerFile says which server's store it is.
	ownerFile = "server.json"
)

// RemoveStore removes what a cluster keeps in a store directory, and the directory
// when nothing else is in it. No process may be using it.
func RemoveStore(dir string) {
	for _, name := range []string{queueDir, cacheDir, ownerFile, lockFile} {
		_ = os.RemoveAll(filepath.Join(dir, name)) // what can't be removed stays
	}
	_ = os.Remove(dir)
}
