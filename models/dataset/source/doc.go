// Package source reads data sets in the formats that people have them in, as a
// stream of batches: IDX, NumPy (npy, npz), CSV, safetensors, Parquet, and folders of
// PNG and JPEG images.
//
// Memory stays at a few batches whatever the set's size. Files are not trusted: what
// a header announces is checked against the file and against limits before anything
// is allocated for it, compressed data is read as far as announced and no further,
// and an error names the file and the row.
//
// The package knows files and bytes only; where the batches go is its caller's
// business.
package source
