package main

import (
	"encoding/json"
	"fmt"
	"os"

	ort "github.com/yalue/onnxruntime_go"

	"idunno/models/arch"
	"idunno/models/onnx"
)

// references has ONNX Runtime compute the outputs of the cases in a folder and writes them there. The engine takes no part in it.
func references(dir string) error {
	list, err := files(dir)
	if err != nil {
		return err
	}
	for _, file := range list {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var c arch.Case
		if err := json.Unmarshal(raw, &c); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := answer(&c); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if raw, err = json.MarshalIndent(c, "", " "); err != nil {
			return err
		}
		if err := os.WriteFile(file, append(raw, '\n'), 0o644); err != nil {
			return err
		}
		fmt.Println(file)
	}
	return nil
}

func answer(c *arch.Case) error {
	p, ok := arch.Build(c.Network, c.Config)
	if !ok {
		return fmt.Errorf("there is no network %q", c.Network)
	}
	g, err := onnx.Decode(p, onnx.Limits{})
	if err != nil {
		return err
	}
	session, err := newPeer(p, g, 1)
	if err != nil {
		return err
	}
	defer session.close()
	classes := g.Outputs[0].Dims[1].Size
	b, err := session.bind(samples(c.Network, c.Config, c.Batch), [][]int{{c.Batch, classes}})
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.run(); err != nil {
		return err
	}
	c.Outputs = nil
	for i := range c.Batch {
		c.Outputs = append(c.Outputs, b.outputs[0][i*classes:][:classes])
	}
	return nil
}

// initialize loads the shared library.
func initialize(lib string) error {
	if lib == "" {
		return fmt.Errorf("where is ONNX Runtime's shared library? give -lib FILE or set ORT_LIB; see README.md")
	}
	ort.SetSharedLibraryPath(lib)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return fmt.Errorf("load %s: %w", lib, err)
	}
	return nil
}
