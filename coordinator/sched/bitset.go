package sched

import "math/bits"

// bitset is a set of small numbers. It remembers how far it is full from the
// start, so that counting costs the unfinished stretch and not the whole job.
type bitset struct {
	words []uint64
	// full is the number of leading words that are complete.
	full int
}

func newBitset(n int) bitset {
	b := bitset{words: make([]uint64, (n+63)/64)}
	if len(b.words) > 0 {
		b.words[0] = 1 // number 0 is no task: count it as present, so that word 0 can fill
	}
	return b
}

func (b *bitset) set(n int) {
	b.words[n/64] |= 1 << (n % 64)
	for b.full < len(b.words) && b.words[b.full] == ^uint64(0) {
		b.full++
	}
}

func (b *bitset) has(n int) bool { return b.words[n/64]&(1<<(n%64)) != 0 }

// below counts the members from 1 to n-1.
func (b *bitset) below(n int) int {
	count := min(b.full, n/64) * 64
	for w := b.full; w < n/64; w++ {
		count += bits.OnesCount64(b.words[w])
	}
	if w := n / 64; w < len(b.words) {
		count += bits.OnesCount64(b.words[w] & (1<<(n%64) - 1))
	}
	return count - 1
}
