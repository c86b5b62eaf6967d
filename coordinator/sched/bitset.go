package sched

import "math/bits"

// bitset is a set of small numbers. It remembers how far it is full from the
// start, so that counting costs the unfinished stretch and not the whole job. It
// takes memory up to its highest member: a job that waits takes none.
type bitset struct {
	words []uint64
	// full is the number of leading words that are complete, most that of all words.
	full, most int
}

// newBitset is a set of numbers from 1 to n-1.
func newBitset(n int) bitset {
	b := bitset{most: (n + 63) / 64}
	if b.most > 0 {
		b.words = []uint64{1} // number 0 is no task: count it as present, so that word 0 can fill
	}
	return b
}

// grow makes room for so many words.
func (b *bitset) grow(words int) {
	if more := words - len(b.words); more > 0 {
		b.words = append(b.words, make([]uint64, more)...)
	}
}

func (b *bitset) set(n int) {
	b.grow(n/64 + 1)
	b.words[n/64] |= 1 << (n % 64)
	for b.full < len(b.words) && b.words[b.full] == ^uint64(0) {
		b.full++
	}
}

func (b *bitset) has(n int) bool {
	return n/64 < len(b.words) && b.words[n/64]&(1<<(n%64)) != 0
}

// through is the highest number up to which all are members.
func (b *bitset) through() int {
	n := 64*b.full - 1
	if b.full < len(b.words) {
		n += bits.TrailingZeros64(^b.words[b.full])
	}
	return max(n, 0)
}

// highest is the highest member, 0 for none.
func (b *bitset) highest() int {
	for w := len(b.words) - 1; w >= 0; w-- {
		if b.words[w] != 0 {
			return 64*w + bits.Len64(b.words[w]) - 1
		}
	}
	return 0
}

// below counts the members from 1 to n-1.
func (b *bitset) below(n int) int {
	count := min(b.full, n/64) * 64
	for w := b.full; w < min(n/64, len(b.words)); w++ {
		count += bits.OnesCount64(b.words[w])
	}
	if w := n / 64; w < len(b.words) {
		count += bits.OnesCount64(b.words[w] & (1<<(n%64) - 1))
	}
	return count - 1
}
