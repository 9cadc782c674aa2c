// Package proc runs the programs that the builder needs. No other package of the project starts a
// process.
//
// A program gets its arguments as they are, never through a shell, an environment that is exactly
// the one asked for, and a process group of its own, so that ending it ends its children too. It
// dies with this process. Untrusted work is confined: it runs as an unprivileged user that can't
// gain privileges, with limits on memory and CPU time, and without a network, or in a network of
// its own that holds a single listener of this process.
//
// If this process is not root, a launcher starts confined programs: this same program, called by
// another name, without secrets and in a user namespace. So a process that is protected (see
// [Protect]) can have confined programs too.
package proc
