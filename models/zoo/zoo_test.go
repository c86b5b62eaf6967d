package zoo_test

import (
	"math"
	"sync"
	"testing"

	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/zoo"
)

// TestHeldOutAccuracy runs the embedded models on all held-out images, which
// neither of them has seen, and counts for itself.
func TestHeldOutAccuracy(t *testing.T) {
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		atLeast float64
		atMost  float64 // mean cross-entropy
	}{{"mlp", 0.98, 0.08}, {"cnn", 0.99, 0.04}} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := zoo.Model(c.name)
			if !ok {
				t.Fatal("not in the zoo")
			}
			m, err := models.Load(p, models.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Check(set.Shape, set.DType); err != nil {
				t.Fatal(err)
			}
			correct, loss := evaluate(t, m, set)
			accuracy, mean := float64(correct)/float64(set.Len()), loss/float64(set.Len())
			t.Logf("%s: %d of %d correct (%.2f %%), mean loss %.4f", c.name, correct, set.Len(), 100*accuracy, mean)
			if accuracy < c.atLeast || !(mean > 0 && mean < c.atMost) {
				t.Errorf("accuracy %v, expected at least %v; loss %v, expected at most %v", accuracy, c.atLeast, mean, c.atMost)
			}
		})
	}
}

// evaluate predicts every batch of 100 with two sessions and counts the images
// whose class is their label.
func evaluate(t *testing.T, m *models.Model, set *dataset.Set) (correct int, loss float64) {
	const size, slots = 100, 2
	var rights [slots]int
	var losses [slots]float64
	var seen [slots]int
	var wg sync.WaitGroup
	for slot := range slots {
		wg.Go(func() {
			s := m.NewSession()
			for i := slot + 1; i <= set.Batches(size); i += slots {
				b, err := set.Batch(i, size)
				if err != nil {
					t.Errorf("batch %d: %v", i, err)
					return
				}
				p, err := s.Predict(t.Context(), b)
				if err != nil {
					t.Errorf("batch %d: %v", i, err)
					return
				}
				right, sum := 0, 0.0
				for j, y := range b.Y {
					if p.Class[j] == y {
						right++
					}
					sum += float64(p.Loss[j])
					seen[slot]++
				}
				if right != p.Correct || math.Abs(sum-p.LossSum) > 1e-3 {
					t.Errorf("batch %d: counted %d correct and loss %v, the prediction says %d and %v", i, right, sum, p.Correct, p.LossSum)
				}
				rights[slot] += right
				losses[slot] += sum
			}
		})
	}
	wg.Wait()
	if n := seen[0] + seen[1]; n != dataset.MNISTTestImages {
		t.Errorf("%d images were predicted", n)
	}
	return rights[0] + rights[1], losses[0] + losses[1]
}

func TestNames(t *testing.T) {
	for _, name := range zoo.Names() {
		a, ok := zoo.Model(name)
		if !ok || len(a) == 0 {
			t.Fatalf("%s is listed but not there", name)
		}
		a[0]++
		if b, _ := zoo.Model(name); b[0] == a[0] {
			t.Errorf("%s: a caller can change the model of another", name)
		}
	}
	if p, ok := zoo.Model("vgg"); ok || p != nil {
		t.Error("a model that does not exist")
	}
}
