package arch

import (
	"strings"
	"testing"
)

// The published networks have the published numbers of parameters: torchvision's, and for the LSTM what its layers say.
func TestParameters(t *testing.T) {
	for name, want := range map[string]int{
		"resnet18": 11689512, "resnet50": 25557032, "mobilenetv2": 3504872, "squeezenet": 1235496, "efficientnet-b0": 5288548,
		"lstm": 2*4*128*(28+128+2) + 2*4*128*(256+128+2) + 256*10 + 10,
	} {
		a, c, _ := find(name, Config{})
		got := 0
		for _, w := range a.model(c).Init {
			if !strings.Contains(w.Name, ".running_") { // weights for ONNX, statistics for training
				got += len(w.Floats)
			}
		}
		if got != want {
			t.Errorf("%s has %d parameters, published are %d", name, got, want)
		}
	}
}
