// Package cli is the command line: a tree of commands, one file each, over the
// packages that do the work.
//
// The rules every command keeps:
//
//   - Standard output is the answer and nothing else; talk, progress and errors go
//     to standard error, and progress bars only when that is a terminal.
//   - Reading commands take --json and print one document with a schema_version.
//   - An error is one line, "idunno: what is wrong: what to do next".
//   - The exit code says what happened, see the Exit constants.
//
// Streams, arguments and the environment are injected; the package touches no
// global state but signals and the network. It decides nothing about jobs: what a
// command prints comes from the coordinator's answers.
package cli
