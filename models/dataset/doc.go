// Package dataset turns labelled images into batches: it reads IDX files (the
// MNIST family), cuts a set into batches, writes and reads one batch as
// safetensors, describes a stored set in a manifest, and carries the MNIST test
// set of 21,000 images inside the program.
//
// It knows files and bytes only. Where batches are stored, who computes on them
// and what a model makes of them are the business of other packages.
package dataset
