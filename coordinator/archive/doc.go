// Package archive keeps the results of an ended job as one file of the SDFS, and
// puts results into the order of their tasks as they come. It knows no stream and no
// record: whoever uses it brings the messages.
//
// The file is a bundle. Its manifest lists parts of some megabytes, one behind the
// other in the order of the tasks, and after them the objects that hold outputs too
// large for a message, so that these live as long as the archive. A part is a
// sequence of frames, the stored message of each task as it was:
//
//	task    uint32   little-endian, ascending over all parts
//	stored  int64    when the result was stored, Unix time in nanoseconds
//	size    uint32   of the message in bytes
//	message size bytes, see wire.Result.Marshal
//
// A part is read whole and its digest checked before anything in it is used.
package archive
