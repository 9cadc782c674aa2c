package nixbuilder

import (
	"errors"
	"fmt"
)

// A Kind says what a client can do about an error.
type Kind int

const (
	// NotFound is that there is no such package or revision.
	NotFound Kind = iota
	// Denied is that it is there, but can't be had: by policy, by the package set's own word, or because it fails to build.
	Denied
	// Busy is that too much is under way. Asking again later helps.
	Busy
	// Unavailable is that the package set needs something that can't be fetched at the moment. Asking again later may help.
	Unavailable
)

// An Error is for the one who asked for the image: Message names the thing and the way out, and carries neither paths of the host
// nor secrets. Any other error means that Nix or the storage is not available, and its text is for the operator.
type Error struct {
	Kind    Kind
	Message string
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Lasting tells whether err is one that asking again would only give once more.
func Lasting(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind != Busy && e.Kind != Unavailable
}
