// Package sim runs real coordinators and real workers against a cluster that is
// kept in memory and behaves as badly as a real one may: messages are delayed,
// lost, repeated and overtake each other, acknowledgements disappear, servers
// restart without their memory, nodes are killed, frozen and cut off. It is for
// tests, which run it under testing/synctest: an hour takes a second.
//
// A [World] is the servers, their store and the network; a [Conn] is one
// process's connection, a [broker.Core]. What the world allows itself is what the
// comments of that interface allow.
//
// A seed decides the schedule of faults, the jobs, and by turns what becomes of
// each connection's messages. In which order goroutines run that are ready at the
// same moment is up to Go's runtime, so a seed repeats a run's weather, not every
// step of it.
package sim
