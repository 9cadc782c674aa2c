// Package source answers what a tag stands for: it pins a package set, as it is now, to a revision
// that never changes, and provides the set's files at that revision.
//
// A tag that moves (latest, a branch, a channel) is pinned anew each time it is asked for; a
// revision's own tag is not. Evaluation only ever sees the immutable copy of a revision, never the
// files that somebody may be editing.
package source
