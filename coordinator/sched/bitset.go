package sched

import "math/bits"

// pageBits is how many numbers a page of a set holds.
const pageBits = 4096

// bitset is a set of small numbers, in pages. A page is there only while it is
// neither empty nor full, so that a set that fills up from the start takes little
// more than its unfinished stretch, however long it is.
type bitset struct {
	pages []*page
	// full is the number of leading pages that are complete.
	full int
}

type page struct {
	words [pageBits / 64]uint64
	count int
}

// newBitset is a set of numbers from 1 to n-1. Number 0 is no task: it counts as
// present, so that page 0 can fill.
func newBitset(n int) bitset {
	b := bitset{pages: make([]*page, (n+pageBits-1)/pageBits)}
	if n > 0 {
		b.set(0)
	}
	return b
}

func (b *bitset) set(n int) {
	at := n / pageBits
	p := b.pages[at]
	if p == nil {
		p = new(page)
		b.pages[at] = p
	}
	if word, bit := &p.words[n%pageBits/64], uint64(1)<<(n%64); *word&bit == 0 && p.count < pageBits {
		*word |= bit
		p.count++
	}
	if p.count == pageBits {
		b.pages[at] = &complete
	}
	for b.full < len(b.pages) && b.pages[b.full] == &complete {
		b.full++
	}
}

// complete stands for every page that is full; nothing looks into it.
var complete = page{count: pageBits}

func (b *bitset) has(n int) bool {
	p := b.pages[n/pageBits]
	return p == &complete || p != nil && p.words[n%pageBits/64]&(1<<(n%64)) != 0
}

// below counts the members from 1 to n-1.
func (b *bitset) below(n int) int {
	last := n / pageBits
	count := min(b.full, last) * pageBits
	for at := b.full; at < min(last, len(b.pages)); at++ {
		if p := b.pages[at]; p != nil {
			count += p.count
		}
	}
	if last < len(b.pages) {
		count += b.pages[last].below(n % pageBits)
	}
	return count - 1
}

// below counts the members of a page from 0 to n-1.
func (p *page) below(n int) int {
	if p == nil {
		return 0
	}
	if p == &complete {
		return n
	}
	count := 0
	for w := range n / 64 {
		count += bits.OnesCount64(p.words[w])
	}
	return count + bits.OnesCount64(p.words[n/64]&(1<<(n%64)-1))
}
