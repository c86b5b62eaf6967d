// Package objectstore is the SDFS, the cluster's file store: put, get, ls, rm,
// store and versions, on a JetStream object bucket and an index bucket that the
// caller hands over, and a cache of objects on a worker's disk. It replicates
// nothing itself, names no bucket, and doesn't know what a model or a data set
// is.
//
// # What is stored
//
// Contents are objects whose name is the SHA-256 of their bytes. An object is
// written once and not overwritten while it is sound, so whoever holds a digest
// reads those bytes or gets an error. The index has an entry a file: its
// versions, each with the digest of its contents, and the number of the next
// one. A version's number is never used again, because the entry outlives the
// file. A bundle is a file whose contents, a manifest, list other objects, its
// parts. The newest five versions are always kept, and any version for a day,
// since work that was admitted with its digest may still be running. Beside the
// entries the index has a record an object: which versions refer to it.
//
// # Putting
//
//	bytes ──hash, spool──> hold the objects (1) ──> there and sound? ──no──> upload,
//	                                                      │yes            8 MiB at a time
//	                                                      └──────> index entry (2) <──┘
//
// The bytes are read twice: their digest is needed before the upload. Up to
// 1 MiB waits in memory, a regular file is read again, anything else goes
// through a temporary file without a name. Only the index entry makes a version
// visible, so that a reader never sees half of one.
//
// # Deleting
//
// Files share objects, so one is deleted when the last reference to it is taken
// away. An object's record goes through three states, each change being a
// compare-and-set on the record's one key:
//
//	           hold                      release of the last reference (3)
//	no record ──────> held by versions ──────────────────> in deletion
//	    ^              ^   hold adds,                        │    │
//	    │              │   release removes                   │    │
//	    │              └───── hold, after 10 s ──────────────┘    │
//	    └──────────── the object is deleted (4), then its record ─┘
//
// A writer holds an object before it looks whether it is there, (1). If a
// deleter came first, the hold waits until the record is gone, and the look
// finds the object gone and stores it again; if the writer came first, (3) finds
// its reference and deletes nothing. No step relies on a read: replicas may
// answer with old data, and a compare-and-set on it fails and is tried again.
// Versions leave the index before their references are taken away. A put that
// fails takes its references away and deletes nothing: its objects may be wanted
// again in a moment, and Sweep deletes them after a day if not.
//
// A record that stays in deletion for ten seconds, by the observer's own clock,
// belongs to a deleter that died: a writer takes it over.
//
// # Failures
//
//	what happens                            what follows
//	upload dies half-way                    the file is as before; Sweep deletes the chunks after an hour
//	upload is cancelled                     the file is as before; the chunks are deleted at once
//	writer dies between (1) and (2)         the file is as before; Sweep takes reference and object away after a day
//	remover dies before (3)                 the version is gone; Sweep takes reference and object away after a day
//	deleter dies between (3) and (4)        a writer waits 10 s and stores again; Sweep finishes after an hour
//	acknowledgement of a write lost         the write is tried again and recognises itself
//	two put the same bytes at once          the later one notices and uses the first one's object
//	two put other bytes under one name      both get a version, numbered in the order of (2)
//	stored bytes are damaged                readers get ErrCorrupt; putting the same bytes repairs the object
//	file changes while it is put            ErrChanged, nothing stored
//	a bundle's manifest is damaged          removing the version works; Sweep finds its parts after a day
//	a part isn't there, or was an object    ErrNotFound names it; store it again
//	  nobody referred to for a day
//	deleter sleeps inside (4) for 10 s      if the object was stored again meanwhile it is lost: ErrNotFound,
//	  and then goes on                      and putting the same bytes heals it
//	cached file damaged or dropped          fetched again
//	cache can't be written                  everything is fetched; nothing fails
//
// The sleeping deleter is the price of a bucket that can't delete "if
// unchanged". It gives up by itself after half that time, so the sleep has to
// fall between its last look at the clock and the server.
package objectstore
