// Package broker connects to NATS and names everything that iDunno keeps there.
//
// topology.go is the only place in the program where a stream, subject, bucket
// or consumer is named; whoever needs one asks a function of this package. The
// package knows how messages travel and what they survive, not what they mean:
// jobs, tasks and results belong to the coordinator and the worker.
//
// What is kept, and where:
//
//	JOBS     what was asked       stream, file, one message a submission
//	RESULTS  what is done         stream, file, one message a task, first write wins
//	STATE    job records          key-value, file
//	FILES    SDFS index           key-value, file
//	OBJECTS  SDFS contents        object store, file
//	TASKS    what is to be done   work queue, memory: derived again from the above
//	LEASE    who coordinates      key-value, file, expires
package broker
