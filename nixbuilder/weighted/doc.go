// Package weighted keeps in memory what was used last, up to a number of bytes. It is for what
// others choose, which may be of any size: a number of entries is no limit then.
package weighted
