// Command _gen trains one of the embedded models and writes it to this folder's
// parent:
//
//	go run ./models/zoo/_gen -arch mlp -seed 1 -idx DIR
//
// DIR holds the official MNIST files. It does what `idunno train` does with
// --local, without the rest of the program.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"idunno/models/dataset"
	"idunno/models/train"
)

func main() {
	var c train.Config
	flag.StringVar(&c.Arch, "arch", "mlp", "network: mlp or cnn")
	flag.Uint64Var(&c.Seed, "seed", 1, "seed of every random choice")
	flag.IntVar(&c.Epochs, "epochs", 0, "passes over the data; 0 for the network's default")
	flag.IntVar(&c.Shift, "shift", 0, "pixels that images are moved by; 0 for the network's default, -1 for none")
	flag.Float64Var(&c.Dropout, "dropout", 0, "share of hidden units left out; 0 for the network's default, -1 for none")
	flag.IntVar(&c.HoldOut, "hold-out", 0, "images at the end of the training part to measure on instead")
	flag.IntVar(&c.Threads, "threads", 0, "goroutines; 0 for one a processor")
	idx := flag.String("idx", ".", "folder with the MNIST training files")
	out := flag.String("out", "", "file to write; empty for models/zoo/ARCH.onnx")
	flag.Parse()
	if *out == "" {
		*out = "models/zoo/" + c.Arch + ".onnx"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, c, *idx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c train.Config, idx, out string) error {
	set, err := dataset.MNISTTrain(idx)
	if err != nil {
		return err
	}
	c.Progress = func(e train.Epoch) {
		fmt.Fprintf(os.Stderr, "%s epoch %d: loss %.5f accuracy %.4f held out %.4f, %.1f s\n", c.Arch, e.Epoch, e.Loss, e.Accuracy, e.HeldOut, e.Seconds)
	}
	res, err := train.Run(ctx, set, c)
	if err != nil {
		return err
	}
	return os.WriteFile(out, res.ONNX, 0o644)
}
