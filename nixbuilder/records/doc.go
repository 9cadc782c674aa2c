// Package records keeps what a registry found out, so that it need not be found out again.
//
// A State is what all replicas of a registry share: small records under keys. A Table holds the
// records of one kind in it, as JSON behind a checksum, and the most used ones in memory. A key is
// made of all that a record depends on, by Key: a record is never wrong, but it may be missing.
//
// Records are hints. A record that is lost or damaged costs time, never correctness.
package records
