// Package cachedir bounds, in bytes, what is kept on this machine only because it costs something
// to get it again: package sets by revision, git objects, and stores that evaluations have fetched
// into.
//
// A [Part] is a directory of such things. What was not used for longest is removed first, from
// whichever part, and never what is in use. While one thing is being got, [Within] sees to it that
// it does not take more than there is room for.
package cachedir
