package source

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/sirupsen/logrus"
)

// Tags are what clients may choose beside Latest. They are limited because whoever chooses a
// package set runs code. Each is one of the words below, which are about git repositories, or a
// glob (path.Match) of names of branches, tags or channels. Clients may also choose the operator's
// own branch, tag or channel by its name, and the commits that it was seen at.
type Tags []string

const (
	// Branches are those that the remote advertises.
	Branches = "branches"
	// GitTags are the tags that the remote advertises.
	GitTags = "tags"
	// Ancestors are commits that an advertised branch or tag leads to.
	Ancestors = "ancestors"
	// AnyTag is any name, and any commit that the remote gives out. On large hosts that includes
	// commits of proposed changes and of forks, which are anybody's.
	AnyTag = "*"
)

// defaultGitTags are the Tags of a git repository whose options list none: everything that those
// who may write to it have put there.
var defaultGitTags = Tags{Branches, GitTags, Ancestors}

// Check reports tags that are impossible, for a git repository or else for a channel.
func (t Tags) Check(git bool) error {
	var faults []error
	for _, one := range t {
		switch _, err := path.Match(one, ""); {
		case err != nil || one == "":
			faults = append(faults, fmt.Errorf("%q is not a glob, such as release-*", one))
		case !git && slices.Contains(defaultGitTags, one):
			faults = append(faults, fmt.Errorf(
				"%q is about git repositories, and this is a channel: list globs of the names of channels", one,
			))
		}
	}
	return errors.Join(faults...)
}

func (t Tags) has(word string) bool { return slices.Contains(t, word) }

// match tells whether a glob has the name of a branch, tag or channel.
func (t Tags) match(name string) bool {
	return slices.ContainsFunc(t, func(glob string) bool {
		matched, err := path.Match(glob, name)
		return matched && err == nil && !slices.Contains(defaultGitTags, glob)
	})
}

// A NotAllowedError means that a tag may stand for something, but clients may not choose it. Its
// text is for them.
type NotAllowedError struct{ reason string }

func (e *NotAllowedError) Error() string { return e.reason }

func notAllowed(format string, args ...any) error {
	return &NotAllowedError{fmt.Sprintf(format, args...)}
}

// A Memory knows, for all replicas, the commits at which the operator's channel, branch or tag once
// stood. It is safe for concurrent use.
type Memory interface {
	Seen(ctx context.Context, commit string) (bool, error)
	See(ctx context.Context, commit string) error
}

// seen tells whether a commit is in a memory. The memory may be nil.
func seen(ctx context.Context, memory Memory, commit string) (bool, error) {
	if memory == nil {
		return false, nil
	}
	return memory.Seen(ctx, commit)
}

// see puts a commit into a memory, unless it is there. A failure is only logged: it matters to
// clients who choose the commit when it is no longer the latest.
func see(ctx context.Context, memory Memory, commit string) {
	known, err := seen(ctx, memory, commit)
	if err == nil && !known && memory != nil {
		err = memory.See(ctx, commit)
	}
	if err != nil {
		logrus.WithError(err).Warnf("nix: commit %s is not noted as one that may be chosen by its tag", commit)
	}
}
