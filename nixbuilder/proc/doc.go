// Package proc runs the programs that the builder needs. No other package of the project starts a process.
//
// A program gets its arguments as they are, never through a shell, an environment that is exactly the one asked for, and a
// process group of its own, so that ending it ends its children too. It dies with this process. Untrusted work is confined: an unprivileged user, no way to gain
// privileges, limits on memory and CPU time, and no network.
package proc
