package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// svm holds the support vectors of a support vector machine (Chang, Lin, "LIBSVM", 2011).
type svm struct {
	kernel             string
	gamma, coef0, grad float64
	vectors            []float32 // [n, features]
	n, features        int
	coef, rho          []float32
	post               transform
}

func (m *svm) read(a *attrs) (err error) {
	m.kernel = a.string("kernel_type", "LINEAR")
	switch m.kernel {
	case "LINEAR", "POLY", "RBF", "SIGMOID":
	default:
		return fmt.Errorf("%w: kernel_type %q", ErrUnsupported, m.kernel)
	}
	if p := a.floats("kernel_params"); len(p) >= 3 {
		m.gamma, m.coef0, m.grad = float64(p[0]), float64(p[1]), float64(p[2])
	} else if m.kernel != "LINEAR" {
		return fmt.Errorf("kernel_params has %d numbers, three are needed", len(p))
	}
	m.vectors, m.coef, m.rho = a.floats("support_vectors"), a.floats("coefficients"), a.floats("rho")
	m.post, err = readTransform(a)
	return err
}

// split finds the number of features from that of the vectors.
func (m *svm) split(n int64) error {
	if n < 1 || n > int64(len(m.vectors)) || len(m.vectors)%int(n) != 0 {
		return fmt.Errorf("%d numbers in %d support vectors", len(m.vectors), n)
	}
	m.n = int(n)
	m.features = len(m.vectors) / m.n
	return nil
}

// product is the kernel function of x and vector i.
func (m *svm) product(x []float32, i int) float64 {
	v := m.vectors[i*m.features:][:m.features]
	sum := 0.0
	if m.kernel == "RBF" {
		for j, w := range v {
			d := float64(x[j]) - float64(w)
			sum += d * d
		}
		return math.Exp(-m.gamma * sum)
	}
	for j, w := range v {
		sum += float64(x[j]) * float64(w)
	}
	switch m.kernel {
	case "POLY":
		return math.Pow(m.gamma*sum+m.coef0, m.grad)
	case "SIGMOID":
		return math.Tanh(m.gamma*sum + m.coef0)
	}
	return sum
}

func (m *svm) check(in []*Tensor) (rows int, err error) {
	rows, features, err := table(in[0])
	if err == nil && features != m.features {
		err = fmt.Errorf("rows of %d features, the support vectors have %d", features, m.features)
	}
	return rows, err
}

// svmRegressor gives one number a row.
type svmRegressor struct {
	svm
	oneClass bool // the sign only: inside or outside
}

func buildSVMRegressor(_ *Node, a *attrs) (Op, error) {
	r := &svmRegressor{}
	if err := r.read(a); err != nil {
		return nil, err
	}
	n := a.int("n_supports", 0)
	r.oneClass = a.int("one_class", 0) != 0
	if n == 0 { // the coefficients are those of the features
		if r.kernel != "LINEAR" {
			return nil, fmt.Errorf("no support vectors for kernel_type %q", r.kernel)
		}
		r.vectors, r.coef, n = r.coef, []float32{1}, 1
	}
	if err := r.split(n); err != nil {
		return nil, err
	}
	if len(r.coef) != r.n || len(r.rho) != 1 {
		return nil, fmt.Errorf("%d coefficients and %d rho for %d support vectors", len(r.coef), len(r.rho), r.n)
	}
	return r, nil
}

func (r *svmRegressor) Shape(in []*Tensor, out []Spec) error {
	rows, err := r.check(in)
	out[0].set(onnx.Float, rows, 1)
	return err
}

func (r *svmRegressor) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	return 3 * int64(in[0].Len()) * int64(r.n), int64(r.features)
}

func (r *svmRegressor) Run(s *Scratch, in, out []*Tensor) {
	space := s.floats(0, r.features)
	for i := range out[0].F {
		x := rowOf(in[0], i, r.features, space)
		sum := float64(r.rho[0])
		for k, c := range r.coef {
			sum += float64(c) * r.product(x, k)
		}
		if r.oneClass {
			if sum > 0 {
				sum = 1
			} else {
				sum = -1
			}
		}
		out[0].F[i] = float32(sum)
	}
	r.post.apply(out[0].F)
}

// svmClassifier decides between every two classes and lets them vote.
type svmClassifier struct {
	svm
	classes      []int64
	count, start []int // of the support vectors of each class
	probA, probB []float32
}

func buildSVMClassifier(_ *Node, a *attrs) (Op, error) {
	c := &svmClassifier{classes: a.ints("classlabels_ints"), probA: a.floats("prob_a"), probB: a.floats("prob_b")}
	if err := a.noStrings(noNames, "classlabels_strings"); err != nil {
		return nil, err
	}
	if err := c.read(a); err != nil {
		return nil, err
	}
	total := 0
	for _, n := range a.small("vectors_per_class", 0, math.MaxInt32) {
		c.start = append(c.start, total)
		c.count = append(c.count, n)
		total += n
	}
	if a.err != nil {
		return nil, a.err
	}
	k := len(c.classes)
	if k < 2 || k > 1<<10 || len(c.count) != k {
		return nil, fmt.Errorf("%w: SVMClassifier with %d integer classes and vectors of %d", ErrUnsupported, k, len(c.count))
	}
	if err := c.split(int64(total)); err != nil {
		return nil, err
	}
	pairs := k * (k - 1) / 2
	if len(c.coef) != (k-1)*c.n || len(c.rho) != pairs || len(c.probA) != len(c.probB) || len(c.probA) != 0 && len(c.probA) != pairs {
		return nil, fmt.Errorf("%d coefficients, %d rho and %d probabilities for %d classes and %d vectors", len(c.coef), len(c.rho), len(c.probA), k, c.n)
	}
	return c, nil
}

// width is the number of scores a row: of the classes with probabilities or two of them, else of the pairs.
func (c *svmClassifier) width() int {
	if k := len(c.classes); len(c.probA) > 0 || k == 2 {
		return k
	}
	return len(c.rho)
}

func (c *svmClassifier) Shape(in []*Tensor, out []Spec) error {
	rows, err := c.check(in)
	scores(out, rows, c.width())
	return err
}

func (c *svmClassifier) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	rows, k := int64(in[0].Len()/max(c.features, 1)), int64(len(c.classes))
	work := rows * (3*int64(len(c.vectors)) + 2*k*int64(c.n))
	if len(c.probA) > 0 {
		work += rows * max(100, k) * 4 * k * k
	}
	return work, int64(c.features) + 2*(int64(c.n)+k*k*2+k*4+int64(len(c.rho)))
}

func (c *svmClassifier) Run(s *Scratch, in, out []*Tensor) {
	k, pairs, width := len(c.classes), len(c.rho), c.width()
	space := s.floats(0, c.features)
	work := s.doubles(c.n + pairs + k*k*2 + 4*k)
	kernels, decisions, votes := work[:c.n], work[c.n:][:pairs], work[c.n+pairs:][:k]
	y := s.floats(1, width)
	for i := range out[0].I {
		x := rowOf(in[0], i, c.features, space)
		for v := range kernels {
			kernels[v] = c.product(x, v)
		}
		c.decide(kernels, decisions, votes)
		b := 0
		for j, v := range votes {
			if v > votes[b] {
				b = j
			}
		}
		out[0].I[i] = c.classes[b]
		if len(out) < 2 {
			continue
		}
		switch {
		case len(c.probA) > 0:
			p := couple(k, work[c.n+pairs+k:], func(i int) float64 {
				return sigmoid(-(decisions[i]*float64(c.probA[i]) + float64(c.probB[i])))
			})
			for j, v := range p {
				y[j] = float32(v)
			}
		case k == 2:
			y[0], y[1] = float32(-decisions[0]), float32(decisions[0])
		default:
			for j, v := range decisions {
				y[j] = float32(v)
			}
		}
		copy(out[1].F[i*width:], c.post.apply(y))
	}
}

// decide computes the decision between every two classes, and the votes.
func (c *svmClassifier) decide(kernels, decisions, votes []float64) {
	clear(votes)
	pair := 0
	for i := range c.classes {
		for j := i + 1; j < len(c.classes); j++ {
			sum := float64(c.rho[pair])
			for v := c.start[i]; v < c.start[i]+c.count[i]; v++ {
				sum += float64(c.coef[(j-1)*c.n+v]) * kernels[v]
			}
			for v := c.start[j]; v < c.start[j]+c.count[j]; v++ {
				sum += float64(c.coef[i*c.n+v]) * kernels[v]
			}
			decisions[pair] = sum
			if sum > 0 {
				votes[i]++
			} else {
				votes[j]++
			}
			pair++
		}
	}
}

// couple turns the probabilities of the first of every two classes into those of the classes: the second method of Wu, Lin, Weng,
// "Probability Estimates for Multi-class Classification by Pairwise Coupling" (2004). pair gives them in the order of the pairs; work is
// space for 2kk + 3k numbers.
func couple(k int, work []float64, pair func(int) float64) []float64 {
	r, q, p, qp := work[:k*k], work[k*k:][:k*k], work[2*k*k:][:k], work[2*k*k+k:][:k]
	at := 0
	for i := range k {
		for j := i + 1; j < k; j++ {
			v := min(max(pair(at), 1e-7), 1-1e-7)
			r[i*k+j], r[j*k+i] = v, 1-v
			at++
		}
	}
	for t := range k {
		p[t] = 1 / float64(k)
		q[t*k+t] = 0
		for j := range k {
			if j != t {
				q[t*k+t] += r[j*k+t] * r[j*k+t]
				q[t*k+j] = -r[j*k+t] * r[t*k+j]
			}
		}
	}
	for range max(100, k) {
		total, worst := 0.0, 0.0
		for t := range k {
			qp[t] = 0
			for j := range k {
				qp[t] += q[t*k+j] * p[j]
			}
			total += p[t] * qp[t]
		}
		for t := range k {
			worst = max(worst, math.Abs(qp[t]-total))
		}
		if worst < 0.005/float64(k) {
			break
		}
		for t := range k {
			d := (total - qp[t]) / q[t*k+t]
			p[t] += d
			total = (total + d*(d*q[t*k+t]+2*qp[t])) / ((1 + d) * (1 + d))
			for j := range k {
				qp[j] = (qp[j] + d*q[t*k+j]) / (1 + d)
				p[j] /= 1 + d
			}
		}
	}
	return p
}
