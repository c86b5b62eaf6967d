package wire

// MaxRegrouped is the most bytes of images in a batch that is put together from those
// that are stored.
const MaxRegrouped = 256 << 20

// The plan of a job numbers its tasks from 1: first those of the first round, each
// of TaskSize batches but the last ones, see division, then those of the second, and so on.
// A retry's tasks are some of another job's plan.

// Batches is the number of batches the job asks for, those of all rounds; 0 for
// training.
func (r *JobRecord) Batches() int {
	if r.Doc.Training() || r.Doc.To == 0 {
		return 0
	}
	if r.Retry == nil {
		return r.RoundBatches() * r.Rounds()
	}
	n := 0
	for _, t := range r.Retry.Tasks {
		n += r.through(t[1]) - r.through(t[0]-1)
	}
	return n
}

// RoundBatches is the number of batches in a round.
func (r *JobRecord) RoundBatches() int { return r.Doc.To - r.Doc.From + 1 }

// division is how a round's batches are cut into tasks.
func (r *JobRecord) division() division {
	return division{batches: r.RoundBatches(), size: max(r.TaskSize, 1), tail: r.Tail}
}

// roundTasks is the number of tasks in a round.
func (r *JobRecord) roundTasks() int { return max(r.division().tasks(), 1) }

// Rounds is how often the plan has the range of batches. A job that runs for ever
// has as many rounds as a plan of [MaxTasks] tasks holds.
func (r *JobRecord) Rounds() int {
	switch {
	case r.Doc.Training():
		return 1
	case r.Doc.Forever:
		return max(MaxTasks/r.roundTasks(), 1)
	}
	return max(r.Doc.Rounds, 1)
}

// Endless reports whether the job goes on until it is cancelled.
func (r *JobRecord) Endless() bool { return r.Doc.Forever && r.Retry == nil && !r.Doc.Training() }

// FirstOf is the first task of a round of a job that is no retry.
func (r *JobRecord) FirstOf(round int) int { return (round-1)*r.roundTasks() + 1 }

// Forgotten is how many of the job's results are kept no longer.
func (r *JobRecord) Forgotten() int { return max(r.KeptFrom-1, 0) }

// Round is the round that the job's task n belongs to, counted from 1.
func (r *JobRecord) Round(n int) int {
	if r.Doc.Training() {
		return 1
	}
	return (r.Number(n)-1)/r.roundTasks() + 1
}

// through is the number of batches in the plan's tasks from the first to the given one.
func (r *JobRecord) through(number int) int {
	tasks, through := r.roundTasks(), 0
	if rest := number % tasks; rest > 0 {
		_, through = r.division().span(rest)
	}
	return number/tasks*r.RoundBatches() + through
}

// span is the batches of a task by its number in the plan.
func (r *JobRecord) span(number int) (from, to int) {
	from, to = r.division().span((number-1)%r.roundTasks() + 1)
	return r.Doc.From - 1 + from, r.Doc.From - 1 + to
}

// Number is the number in the plan of the job's task n.
func (r *JobRecord) Number(n int) int {
	if r.Retry == nil {
		return n
	}
	return r.Retry.Tasks.At(n)
}

// Span is the first and the last batch of the job's task n.
func (r *JobRecord) Span(n int) (from, to int) { return r.span(r.Number(n)) }

// Tasks is the number of tasks the job is planned into.
func (r *JobRecord) Tasks() int {
	if r.Doc.Training() {
		return 1
	}
	if r.TaskSize < 1 {
		return 0
	}
	if r.Retry != nil {
		return r.Retry.Tasks.Len()
	}
	return r.roundTasks() * r.Rounds()
}
