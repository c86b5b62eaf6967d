// Package chaos hurts a cluster and proves that nothing is lost by it, in the way
// of Jepsen:
//
//	Plan      a seed ─> the schedule of faults: a pure function
//	Run       the schedule against a cluster of real processes under load, each
//	          process behind a Proxy of its own; everything seen goes into a history
//	Checker   history + what the store holds at the end + a clean run ─> Verdict:
//	          a pure function, too, so that a history can be judged again later
//
// What must hold:
//
//	accepted            a submission that was acknowledged is a job, and it ends
//	exactly once        every batch of a job that is done has one result, and no other
//	equal               predictions are those of a run without cluster, bit for bit
//	durable             a result or an end that was seen once is there at the end
//	nothing unexpected  no job that nobody submitted, no result that no job asked for
//	one leader          the lease has at most one holder at a time, and no epoch comes twice
//	poison stays put    a job with a broken model or batch ends with exactly these tasks
//	                    failed, and no other job notices
//
// The Jepsen rule for what got no answer holds here as well: a submission that
// ended in an error may have become a job or not; both are right.
package chaos
