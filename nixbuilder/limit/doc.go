// Package limit bounds how much is done at a time, and for how long.
//
// Slots bound work of one kind; Shared slots keep some of them from what clients choose; Keyed has
// one piece of work for each key; Lanes keep slow work out of the way of quick work; a Clock ends
// work that takes too long; a Pace keeps other programs from taking the processors from what is
// served.
//
// What is given out is given back by calling release, which does nothing the second time.
package limit
