package status

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Kind says what a client can do about an error.
type Kind int

const (
	// NotFound means that there is no such package or revision.
	NotFound Kind = iota
	// Denied means that it is there, but can't be had, by policy, by the package set's own word, or because it
	// fails to build.
	Denied
	// Busy means that too much is under way. Asking again later helps.
	Busy
	// Unavailable means that the package set needs something that can't be fetched at the moment. Asking again
	// later may help.
	Unavailable
	// Interrupted means that a build was ended from outside, or ran out of what the host has. Asking again
	// later may help, and costs a build.
	Interrupted
	// Damaged means that the revision of the package set has come in a form that can't be used. Another
	// revision, or asking again later, may help.
	Damaged
)

// An Error is for the client who asked for an image.
type Error struct {
	Kind    Kind
	Message string
	// Failed says of an error of kind Denied that a build has failed: nobody forbids anything.
	Failed bool
}

func (e *Error) Error() string { return e.Message }

// maxMessage is how much a client is told, in bytes. The last lines of a build's log are most of
// it.
const maxMessage = 8 << 10

// Errorf makes an Error. A message that is very long is cut.
func Errorf(kind Kind, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return &Error{Kind: kind, Message: message}
}

// Permanent tells whether err is one that a retry cannot change.
func Permanent(err error) bool { return isOf(err, NotFound, Denied) }

// Costly tells whether err should be remembered for clients that ask again at once, as all do: a
// retry would give the same, or would take another build or download to find out.
func Costly(err error) bool { return Permanent(err) || isOf(err, Interrupted, Damaged) }

func isOf(err error, kinds ...Kind) bool {
	var e *Error
	return errors.As(err, &e) && slices.Contains(kinds, e.Kind)
}
