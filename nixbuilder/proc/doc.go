// Package proc runs the programs that the builder needs. No other package of the project starts a
// process.
//
// A program gets its arguments as they are, never through a shell, an environment that is exactly
// the one asked for, and a process group of its own, so that ending it ends its children too. It
// dies with this process. Untrusted work is confined: an unprivileged user, no way to gain
// privileges, limits on memory and CPU time, and no network, or one of its own with a single
// listener of this process in it.
//
// Of a process that is not root, a launcher starts what is confined: this same program, called by
// another name, without secrets and in a user namespace. So a process that is protected (Protect)
// can have confined programs.
package proc
