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
//
// The judge is part of the tests. It compares every result with a run without
// faults, every published task with the plan, and every acknowledgement with the
// results; it watches that nobody begins to write a record whose lease is over or
// takes the lease from a leader that is well, that records go from term to term
// with growing epochs and stay as they ended, and in the end that every accepted
// job is done, with the right counts in its record and in the service's answers.
//
// What a judge is worth shows in what it finds when the program is broken on
// purpose. Seeds in a hundred that fail then:
//
//	acknowledge before the result is stored             100
//	acknowledge a result whose storing timed out          7
//	write records in spite of a refused compare-and-set   1
//	publish nothing again after a restart                 8
//	take the lease from whoever has it                  100
//	renew the lease without compare-and-set               7
//	go on when the lease has ended unconfirmed           60
//	take epochs from the lease's revision alone           4
//	read results one too late after a takeover           20
//	read submissions one too late after a takeover      100
//	fold a result twice, after reading results again     20
//	plan one batch too many                             100
//	believe the silence of one's own lost connection    0.3
//
// What it can't see: a frozen process's clock goes on, so that its timers fire
// while it is frozen; the servers are one, without replicas that disagree; and it
// is the interface's promises that are tested, not whether NATS keeps them. For
// the latter there are the tests of package broker and real processes under chaos.
package sim
