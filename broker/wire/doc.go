// Package wire defines the messages that cross processes: the job document a
// user submits, the job record the coordinator freezes from it, tasks, results,
// heartbeats, and the requests and replies of the service endpoints.
//
// Every message is JSON, so that the stock `nats` client can read and write it; a
// result has its predictions as plain bytes behind a line of JSON, because they
// are most of what the cluster moves.
// The package decodes and validates; it opens no connection and keeps no state.
// It imports the standard library only.
package wire
