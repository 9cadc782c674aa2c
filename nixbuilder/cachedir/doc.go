// Package cachedir bounds the size of caches on this machine: of package sets by revision, of git
// objects, and of stores that evaluations have fetched into. All of these can be had again, at a
// cost.
//
// A [Part] is a directory of such things. A [Bound] removes what was not used for longest, from
// whichever part, and never what is in use. [Within] ends work that fills a directory before that
// takes more than there is room for.
package cachedir
