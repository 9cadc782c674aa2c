package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// GitOptions say where a repository is. URL is needed.
type GitOptions struct {
	// URL is of https, http, ssh (also as user@host:path) or file, or an absolute path. Git logs in
	// with the user and password in it, or else with the credentials that git itself is set up
	// with.
	URL string
	// Ref is the branch, tag or commit that latest stands for; empty: the remote's HEAD.
	Ref string
	// Submodules: fetch submodules, and theirs, each at the commit that is recorded for it.
	Submodules bool
	// Tags are those that clients may choose; nil: the branches, the tags and their history. Memory
	// remembers the commits that Ref stood at; nil: they are forgotten.
	Tags   Tags
	Memory Memory
	// Dir is where objects and trees are kept. Keep is how many trees stay; zero: 4. MaxBytes is
	// how much room one commit may take there; zero: any.
	Dir      string
	Keep     int
	MaxBytes int64
	// Refresh is how long a branch or tag is believed to stand where it stood.
	Refresh time.Duration
}

// Git is a package set in a git repository. Beside Latest, a tag may be a branch, a tag or a commit
// of 40 hexadecimal digits, if Tags let clients choose it.
type Git struct {
	options GitOptions
	name    string // for people: the URL without credentials
	runner  *proc.Runner
	silence time.Duration // how long a server may send nearly nothing; whole seconds
	lookups *lookups
	chosen  *lookups // of commits that may be chosen, each by itself
	history *history
	trees   *trees
	grown   func()

	advertised advertised

	fetching sync.Mutex // one fetch into the repository of objects at a time; guards what follows
	tidied   int64      // bytes of objects that the last tidy left

	password []string // variables by which git gets the URL's password; none: it has none

	setUpSSH sync.Once
	ssh      []string // variables, once it is set up
}

var (
	scpURL = regexp.MustCompile(`^[A-Za-z0-9._]+@[A-Za-z0-9.-]+:[^-]`)
	gitRef = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,200}$`)
)

// Check reports options that are impossible.
func (o GitOptions) Check() error {
	_, err := checkGitURL(o.URL)
	if o.Ref != "" && !gitRef.MatchString(o.Ref) {
		err = errors.Join(err, fmt.Errorf("%q is not a branch, tag or commit", o.Ref))
	}
	return err
}

// Name is the URL for people, without credentials.
func (o GitOptions) Name() string {
	name, _ := checkGitURL(o.URL)
	return name
}

// NewGit checks the options. Nothing is fetched before the first Pin.
func NewGit(runner *proc.Runner, options GitOptions) (*Git, error) {
	if err := options.Check(); err != nil {
		return nil, err
	}
	name, err := checkGitURL(options.URL)
	if err != nil {
		return nil, err
	}
	if options.Tags == nil {
		options.Tags = defaultGitTags
	}
	if err := options.Tags.Check(true); err != nil {
		return nil, err
	}
	options.Keep = cmp.Or(options.Keep, defaultKeep)
	trees := "trees"
	if options.Submodules {
		trees = "trees-" + withSubmodules
	}
	kept, err := newTrees(filepath.Join(options.Dir, trees), options.Keep)
	if err != nil {
		return nil, err
	}
	known, err := newLookups(filepath.Join(options.Dir, "refs.json"), options.Refresh, lookupTime)
	if err != nil {
		return nil, err
	}
	chosen, err := newLookups(filepath.Join(options.Dir, "commits.json"), options.Refresh, fetchTime)
	if err != nil {
		return nil, err
	}
	g := &Git{
		options: options,
		name:    name,
		runner:  runner,
		silence: defaultPatience().time,
		lookups: known,
		chosen:  chosen,
		trees:   kept,
		grown:   func() {},

		advertised: advertised{patience: offersTime},
	}
	g.history = &history{
		git:   g,
		dir:   filepath.Join(options.Dir, "history"),
		bytes: min(historyBytes, cmp.Or(options.MaxBytes/2, historyBytes)),
		slot:  limit.NewSlots(1),
	}
	g.options.URL, g.password, err = hidePassword(options.URL, options.Dir)
	return g, err
}

// checkGitURL refuses a text that git would take for an option or run a command for. It returns the
// URL without credentials.
func checkGitURL(text string) (name string, err error) {
	if strings.HasPrefix(text, "/") || scpURL.MatchString(text) {
		return text, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		// The parser's error has the whole URL, with passwords.
		return "", errors.New("the URL of the git repository can't be parsed")
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
	case (u.Scheme == "https" || u.Scheme == "http" || u.Scheme == "ssh") && u.Host != "" && u.Host[0] != '-':
	default:
		return "", fmt.Errorf("%q is not a URL of https, http, ssh or file", u.Redacted())
	}
	u.User = nil
	return u.String(), nil
}

// local tells whether the repository is on this machine.
func (g *Git) local() bool {
	return strings.HasPrefix(g.options.URL, "/") || strings.HasPrefix(g.options.URL, "file:")
}

// Current knows commits, and branches and tags that were looked up less than Refresh ago.
func (g *Git) Current(tag string) (revision string, ok bool) {
	ref := g.ref(tag)
	return g.lookups.current(lookupOf(ref, g.places(ref)))
}

// Pin asks the remote what a branch or tag stands for, unless it did so less than Refresh ago, and
// fetches the commit unless it is there. It fails with a *NotAllowedError if the tag may not be
// chosen.
func (g *Git) Pin(ctx context.Context, tag string) (Pinned, error) {
	ref := g.ref(tag)
	pinned := Pinned{Name: g.name, Revision: ref}
	if commitTag.MatchString(ref) {
		var err error
		if pinned.Stale, err = g.allow(ctx, ref); err != nil {
			return Pinned{}, fmt.Errorf("looking for %s in %s: %w", ref, g.name, err)
		}
	} else {
		if ref != "" && !gitRef.MatchString(ref) {
			return Pinned{}, ErrUnknownTag
		}
		places := g.places(ref)
		if len(places) == 0 {
			return Pinned{}, notAllowed("tag %q is not one of those that may be chosen (packages.tags)", ref)
		}
		var err error
		ask := func(ctx context.Context) (string, error) { return g.remote(ctx, ref, places) }
		pinned.Revision, pinned.Stale, err = g.lookups.get(ctx, lookupOf(ref, places), ask)
		if err != nil {
			return Pinned{}, fmt.Errorf("looking up %s in %s: %w", cmp.Or(ref, "HEAD"), g.name, err)
		}
	}
	release, err := g.lease(ctx, pinned.Revision, ref)
	if err != nil {
		return Pinned{}, err
	}
	defer release()
	if ref == g.options.Ref {
		see(ctx, g.options.Memory, pinned.Revision)
	}
	pinned.Commit = pinned.Revision
	if chosen, ok := g.Current(Latest); tag == Latest || ok && chosen == pinned.Revision {
		pinned.Origin = "git " + g.options.Ref + " " + g.options.URL
	}
	pinned.Path = g.trees.path(pinned.Revision)
	if pinned.Absent, err = g.trees.paths(pinned.Revision, absentName); err != nil {
		return Pinned{}, err
	}
	if pinned.Pointers, err = g.trees.paths(pinned.Revision, pointersName); err != nil {
		return Pinned{}, err
	}
	pinned.Date, err = g.trees.date(pinned.Revision)
	return pinned, err
}

// Lease checks the commit out again if it is gone. The repository of objects may still have it.
func (g *Git) Lease(ctx context.Context, pinned Pinned) (release func(), err error) {
	return g.lease(ctx, pinned.Revision, pinned.Revision)
}

func (g *Git) lease(ctx context.Context, commit, ref string) (release func(), err error) {
	made := false
	ctx = context.WithoutCancel(ctx) // others may wait for it
	release, err = g.trees.makeHeld(commit, func(dir string) (time.Time, error) {
		made = true
		return g.checkOut(ctx, commit, ref, dir)
	})
	if made {
		g.grown()
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s of %s: %w", commit, g.name, err)
	}
	return release, nil
}
