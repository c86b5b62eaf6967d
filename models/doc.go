// Package models turns the bytes of an ONNX classifier and a batch of images into predictions.
//
// Load checks a model and packs its weights; the Model is immutable and may be shared. Each compute slot takes a Session of its own, which is
// single-threaded and reuses its buffers. The same batch gives bit-equal predictions in every process and whatever batch an image is in.
//
// The package is the border of the models room: it knows no network, no cluster and no files. The parts behind it are onnx (the file format),
// engine (compiling and running), dataset (batches), train and zoo (the networks that come with the program).
package models
