// Package sched is the coordinator's pure core: what a job's tasks are, which of
// them to publish next, what a result changes, and which nodes live. It does no
// I/O, starts no goroutine and reads no clock; time comes in as an argument.
//
// A job's life, seen from here:
//
//	record ──NewJob──> Job ──Next──> tasks to publish
//	                    ▲
//	results ──Fold──────┘──> Finished ──Summary──> record
//
// Everything a [Job] knows is a function of its record and of the set of results
// folded into it, in whatever order and however often they come. That is why a
// new coordinator can rebuild it, and why counts never come from counters.
package sched
