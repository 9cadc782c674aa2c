package source

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// offersTime is how long a remote may take to list what it has: somebody waits for it.
	offersTime = 5 * time.Second
	// offersAgain is how long a remote is left alone that did not.
	offersAgain = time.Minute
	// maxOffers is how many tags are offered.
	maxOffers = 1000
)

// tagName matches what clients can ask for. Branches may have other names.
var tagName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// offers sorts names and leaves out those that are no tags, stand for themselves, or stand for
// something else. Of too many it keeps the first, and always the operator's own.
func offers(own string, names []string) []string {
	isOffer := func(name string) bool {
		return tagName.MatchString(name) && name != Latest && !commitTag.MatchString(name) &&
			!variantTag.MatchString(name) && !IsAttached(name)
	}
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == own || !isOffer(name) })
	slices.Sort(names)
	names = slices.Compact(names)
	if isOffer(own) {
		names = append(names[:min(len(names), maxOffers-1)], own)
		slices.Sort(names)
	}
	return names[:min(len(names), maxOffers)]
}

// Offers are none: a path has no other revisions than its own.
func (*Path) Offers(context.Context) []string { return nil }

// Offers are the set's.
func (v *Variants) Offers(ctx context.Context) []string { return v.set.Offers(ctx) }

// Offers are the operator's channel, and those that somebody asked for and may still choose. Nobody
// lists all channels.
func (c *Channel) Offers(ctx context.Context) []string {
	names := slices.DeleteFunc(c.lookups.names(), func(name string) bool { return c.allow(ctx, name) != nil })
	return offers(c.options.Name, names)
}

// Offers are the branches and tags that clients may choose. The remote is asked for them when it
// was not for Refresh, and has offersTime to answer. If it never did, they are those that somebody
// asked for.
func (g *Git) Offers(ctx context.Context) []string {
	refs := g.advertised.get(ctx, g.options.Refresh, g.advertise)
	if refs == nil {
		refs = g.lookups.names()
	}
	var names []string
	for _, ref := range refs {
		name, isTag := strings.CutPrefix(ref, tagsPrefix)
		name, isBranch := strings.CutPrefix(name, headsPrefix)
		places := g.places(name)
		if isTag && slices.Contains(places, tagsPrefix) || isBranch && slices.Contains(places, headsPrefix) ||
			!isTag && !isBranch && len(places) > 0 {
			names = append(names, name)
		}
	}
	return offers(g.options.Ref, names)
}

// advertise lists the remote's branches and tags, unless clients may choose none of them.
func (g *Git) advertise(ctx context.Context) (refs []string, err error) {
	if len(g.options.Tags) == 0 {
		return nil, nil
	}
	output, err := g.git(ctx, "ls-remote", "--heads", "--tags", "--refs", "--", g.options.URL)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(output)) {
		if _, ref, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

// advertised remembers what a remote has listed. It is safe for concurrent use; one asks for all.
type advertised struct {
	patience time.Duration // with the remote

	mu   sync.Mutex
	refs []string
	next time.Time // when the remote may be asked again
}

// get returns what the remote lists, or last listed if it can't be asked or not again so soon.
func (a *advertised) get(
	ctx context.Context, refresh time.Duration, ask func(context.Context) ([]string, error),
) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Now().Before(a.next) {
		return a.refs
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.patience) // others wait for it
	defer cancel()
	refs, err := ask(ctx)
	if err != nil {
		logrus.WithError(err).Warn("nix: the branches and tags of the package repository can't be listed")
		a.next = time.Now().Add(offersAgain)
		return a.refs
	}
	a.refs, a.next = refs, time.Now().Add(refresh)
	return refs
}

// doubt has the next caller ask the remote.
func (a *advertised) doubt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = time.Time{}
}

// names are those that were looked up.
func (l *lookups) names() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.known))
}
