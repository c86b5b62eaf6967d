// Package cluster assembles a whole cluster on this machine: a broker,
// coordinators and workers, each a child process of the running program, and
// fills its SDFS with the models and the data set that the program carries.
//
// A child watches its standard input. The parent never writes there; it closes
// the pipe to ask the child to stop in order, and the kernel closes it when the
// parent dies, whatever it died of, so that no child outlives its parent:
//
//	parent's Stop      pipe closed -> drain -> exit; SIGKILL after a deadline
//	parent SIGKILLed   pipe closed -> drain -> exit; the child's own deadline
//	Ctrl-C             reaches the parent only: children have their own process groups
//	child frozen       woken by the parent's Stop, and by the system when the parent dies
//	child dies         Died tells who; nothing is restarted unless Restart is called
//
// It is not a process supervisor for production, where the system's own one
// (systemd, Kubernetes) starts `idunno broker`, `coordinator` and `worker`.
package cluster
