package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	// storeDir is the directory that the server keeps in its store.
	storeDir = "jetstream"
	// ownerFile says whose store it is.
	ownerFile = "server.json"
)

// owner is who made a store. A cluster knows its members by their names, and a
// server of a cluster deletes streams that the cluster doesn't know, so a store
// opened under another name, or by a server alone that becomes one of a cluster,
// would lose what is in it.
type owner struct {
	Schema  int    `json:"schema_version"`
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
}

// makeStore makes sure that the store is there and belongs to this server, and writes
// so into a new one. A store of a server alone may be opened under any name.
func makeStore(cfg Config) error {
	if err := os.MkdirAll(cfg.Store, 0o700); err != nil {
		return fmt.Errorf("create the store: %w", err)
	}
	made, err := readOwner(cfg.Store)
	if err != nil {
		return err
	}
	if made == nil {
		return writeOwner(cfg)
	}
	what := func(o owner) string {
		if o.Cluster == "" {
			return "a server alone"
		}
		return fmt.Sprintf("server %s of cluster %s", o.Name, o.Cluster)
	}
	me := owner{Name: cfg.Name, Cluster: cfg.Cluster}
	if made.Cluster == me.Cluster && (me.Cluster == "" || made.Name == me.Name) {
		return nil
	}
	return fmt.Errorf("%w: %s holds the data of %s and can't be opened by %s: choose another directory with --store, or start the servers as before",
		ErrStoreKind, filepath.Clean(cfg.Store), what(*made), what(me))
}

// readOwner tells who made the store; nil when nobody has yet. Stores from before
// there were clusters don't say so.
func readOwner(store string) (*owner, error) {
	p, err := os.ReadFile(filepath.Join(store, ownerFile))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(store, storeDir)); err == nil {
			return &owner{}, nil
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	var o owner
	if err := json.Unmarshal(p, &o); err != nil {
		return nil, fmt.Errorf("open the store: %s is damaged (%w): restore it, or choose another directory with --store", filepath.Join(store, ownerFile), err)
	}
	return &o, nil
}

// writeOwner makes the store this server's, for good: it is on disk before the
// first message is.
func writeOwner(cfg Config) error {
	p, err := json.Marshal(owner{Schema: 1, Name: cfg.Name, Cluster: cfg.Cluster})
	if err != nil {
		return err
	}
	at := filepath.Join(cfg.Store, ownerFile)
	f, err := os.CreateTemp(cfg.Store, ownerFile+".*")
	if err != nil {
		return fmt.Errorf("create the store: %w", err)
	}
	_, err = f.Write(append(p, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), at)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it may be renamed already
		return fmt.Errorf("create the store: %w", err)
	}
	return nil
}
