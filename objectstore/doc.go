// Package objectstore is the SDFS: files with versions on a JetStream object
// bucket and an index bucket that the caller hands over.
package objectstore
