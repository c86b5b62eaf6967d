package wire

// tailRounds is how often the size of a task is halved towards the end of a job.
const tailRounds = 3

// division cuts a row of batches into tasks: a pure function of what a record freezes.
//
//	size  size  size … size │ size/2 × tail │ size/4 × tail │ size/8 × tail
//
// All tasks have the same size but those at the end: there each of the tail slots
// gets one task of half the size, of a quarter and of an eighth, so that the slots
// finish at about the same time (factoring: Hummel, Schonberg and Flynn, 1992). Without
// a tail all have the same size, as the records of older programs mean it; the last
// one of a size may have fewer batches.
type division struct{ batches, size, tail int }

// rounds gives the sizes of the tail's tasks, descending, 0 for none, and the batches
// before them.
func (d division) rounds() (sizes [tailRounds]int, body int) {
	body = d.batches
	for k := tailRounds; k > 0; k-- {
		size := d.size >> k
		// Divided instead of multiplied: nothing that a record holds can overflow.
		if size < 1 || d.tail < 1 || size > body/d.tail {
			continue
		}
		body -= size * d.tail
		sizes[k-1] = size
	}
	return sizes, body
}

// tasks is the number of tasks.
func (d division) tasks() int {
	if d.size < 1 || d.batches < 1 {
		return 0
	}
	sizes, body := d.rounds()
	n := (body + d.size - 1) / d.size
	for _, size := range sizes {
		if size > 0 {
			n += d.tail
		}
	}
	return n
}

// span is the first and the last batch of task n, tasks and batches counted from 1.
func (d division) span(n int) (from, to int) {
	if d.size < 1 {
		return 1, 0
	}
	sizes, body := d.rounds()
	full := (body + d.size - 1) / d.size
	if n <= full {
		return (n-1)*d.size + 1, min(n*d.size, body)
	}
	n -= full + 1 // counted from 0 in the tail
	for _, size := range sizes {
		if size == 0 {
			continue
		}
		if n < d.tail {
			return body + n*size + 1, body + (n+1)*size
		}
		n -= d.tail
		body += size * d.tail
	}
	return d.batches + 1, d.batches // there is no such task
}
