package middleware

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"

	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// An imageRequest is an image made of packages that somebody wants.
type imageRequest struct {
	repo     distribution.Repository // whose writes are notified, as those of pushes are
	tag      string
	packages names.Request // that the repository's name is made of
}

// String is NAME:TAG.
func (r imageRequest) String() string { return r.repo.Named().Name() + ":" + r.tag }

// A client waits for an image.
type client struct {
	name   string        // a user, or else an address; own: nobody waits
	hold   time.Duration // how long it waits for an answer; 0: until there is one
	barred error         // why nothing is built for it; nil: what it asks for is
}

// own is the name of the client of work that no client asked for. Its jobs are not limited here,
// and take no room in the queue from clients. No user and no address has this name.
const own = "\x00own"

// wait begins the client's hold: over is sent to when it ends, and is nil if it never does.
func (c client) wait() (over <-chan time.Time, stop func()) {
	if c.hold == 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(c.hold)
	return timer.C, func() { timer.Stop() }
}

// image reads NAME or NAME:TAG, as it would be pulled but without the host: the prefix belongs to
// it.
func (o Options) image(text string) (reference.NamedTagged, names.Request, error) {
	name, tag, tagged := strings.Cut(text, ":")
	if strings.Contains(tag, "/") {
		return nil, names.Request{}, fmt.Errorf("%q begins with a host: leave that out", text)
	}
	if !tagged {
		tag = source.Latest
	}
	var image reference.NamedTagged
	repository, err := reference.WithName(name)
	if err == nil {
		image, err = reference.WithTag(repository, tag)
	}
	if err != nil {
		err = fmt.Errorf("%q is not the name of an image, with or without a tag: %w", text, err)
		return nil, names.Request{}, err
	}
	packages, err := o.packagesOf(name)
	if errors.Is(err, names.ErrOutside) {
		err = fmt.Errorf("%q is not below %s, where images are made of packages", text, o.Names.Prefix)
	}
	return image, packages, err
}

// packagesOf reads the name of a repository. The error is names.ErrOutside or of kind NotFound.
func (o Options) packagesOf(repository string) (names.Request, error) {
	packages, err := names.Parse(repository, o.Names.Prefix, o.Names.MaxPackages)
	if err != nil && !errors.Is(err, names.ErrOutside) {
		err = status.Errorf(status.NotFound, "%v", err)
	}
	return packages, err
}

// canonicalOf returns the repository in which images of a name are, and whether that is another one:
// the name is made of packages then, and not the canonical spelling of them.
func (s *Service) canonicalOf(asked reference.Named) (canonical reference.Named, other bool) {
	name := names.Canonical(asked.Name(), s.options.Names.Prefix, s.options.Names.MaxPackages)
	if name == asked.Name() {
		return asked, false
	}
	canonical, err := reference.WithName(name)
	if err != nil {
		return asked, false
	}
	return canonical, true
}
