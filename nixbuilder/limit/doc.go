// Package limit bounds how much is done at a time: Slots bound work of one kind, and Keyed has one
// piece of work for each key.
//
// What is given out is given back by calling release, which does nothing the second time.
package limit
