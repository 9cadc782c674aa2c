// Package weighted has a cache in memory that is bounded by bytes. It is for values whose number
// and size others choose, where a number of entries would be no limit.
package weighted
