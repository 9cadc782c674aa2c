// Package lease has one replica of a registry do a piece of work for all.
//
// A lease is a key of Redis with a time to live. The replica that sets it does the work, and extends
// the lease meanwhile. The others wait: until the holder says that it has ended, or until the lease
// has run out, because the holder was killed, stopped or cut off. Then they look at what the work
// was for, and if it is not there, one of them does the work.
//
// A lease saves work, and nothing depends on it. Two replicas may do the same work at a time: one
// that was stopped and goes on later, or all of them while Redis is away. So work must be such that
// it can be done twice. What others may do at a time must not, like a sweep beside a build, needs
// more than a lease.
//
// Redis is asked who works, and believed nothing else. Each lease is sealed with a key that
// replicas make of http.secret, and so is the note of a failure, for those who waited in vain. What
// has another seal counts as a fault of Redis. While Redis does not answer within a second, or
// answers with a fault, each replica works for itself; the log says so once, and once when Redis is
// back. Names are hashed, and nothing that is kept there outlives a minute.
package lease
