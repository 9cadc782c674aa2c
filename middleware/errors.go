package middleware

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/middleware/collection"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// How long clients are told to wait before they ask again.
const (
	retryBusy        = 10 * time.Second
	retryUnavailable = 30 * time.Second
	retryPaused      = time.Minute
)

// publicText returns what everybody may know of an error, empty for none.
func publicText(err error) string {
	var asked *status.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &asked):
		return asked.Message
	case errors.Is(err, collection.ErrPaused):
		return collection.ErrPaused.Message
	}
	return "it can't be built at the moment, see the registry's log"
}

// which ends a text of which the client can tell the operator nothing else: docker, skopeo and
// containerd show no text of a 503, but curl and the log do.
func which(err error) string {
	if of := (buildError{}); errors.As(err, &of) && of.build != "" {
		return " (build " + of.build + ")"
	}
	return ""
}

// denied says first that it is not about passwords: docker writes "access denied … docker login"
// before it.
const denied = "not a login problem: "

// explain turns the error of a pull into the one that the registry answers with, and sets the
// headers that belong to it. It logs what only the operator may know; nobody else does.
func (s *Service) explain(at home, p pull, err error) error {
	retry := func(after time.Duration) { p.response.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds()))) }
	if asked := (*status.Error)(nil); errors.As(err, &asked) {
		switch asked.Kind {
		case status.NotFound:
			return errcode.ErrorCodeManifestUnknown.WithMessage(asked.Message)
		case status.Denied, status.Damaged:
			return errcode.ErrorCodeDenied.WithMessage(denied + asked.Message)
		case status.Busy:
			after := busyFor{after: retryBusy}
			errors.As(err, &after)
			retry(after.after)
			return errcode.ErrorCodeTooManyRequests.WithMessage(asked.Message)
		case status.Unavailable:
			retry(retryUnavailable)
			return errcode.ErrorCodeUnavailable.WithMessage(asked.Message + which(err))
		case status.Interrupted:
			retry(failureMemory)
			return errcode.ErrorCodeUnavailable.WithMessage(asked.Message + which(err))
		}
	}
	if login := (needsLogin{}); errors.As(err, &login) {
		login.challenge()
		return errcode.ErrorCodeUnauthorized.WithMessage(login.Error())
	}
	switch {
	case errors.Is(err, collection.ErrPaused):
		retry(retryPaused)
		return collection.ErrPaused
	case errors.Is(err, errReadOnly):
		return errcode.ErrorCodeManifestUnknown.WithMessage(err.Error())
	case errors.Is(err, errHold):
		retry(retryUnavailable)
		return errcode.ErrorCodeUnavailable.WithMessage(
			"the image is still being built, and will be there when it is done: ask again" + which(err),
		)
	case errors.Is(err, context.Canceled):
		return errcode.ErrorCodeUnavailable // nobody reads it
	}
	build := buildError{}
	errors.As(err, &build)
	fields := logrus.Fields{"image": at.Named().Name(), "tag": p.reference, "build": build.build}
	logrus.WithError(err).WithFields(fields).Errorf("nix: %s:%s can't be built at the moment", at, p.reference)
	retry(retryUnavailable)
	return errcode.ErrorCodeUnavailable.WithMessage(publicText(err) + ": ask again later" + which(err))
}
