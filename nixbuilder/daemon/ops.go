package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// These are the protocol's numbers of the operations used here.
const (
	opAddTempRoot           = 11
	opSetOptions            = 19
	opQueryPathInfo         = 26
	opQuerySubstitutable    = 30
	opQueryValidPaths       = 31
	opQueryMissing          = 40
	opBuildPathsWithResults = 46
)

// maxPathRequest is the size of a request about the longest store path, in bytes: operation,
// length, path.
const maxPathRequest = 8 + 8 + 256

// maxHashBytes is how much of a hash's text is kept. Nix's have 71 bytes.
const maxHashBytes = 128

// request sends what was written and reads until the answer begins.
func (c *Conn) request(onLog func(LogLine)) error {
	if err := c.w.flush(); err != nil {
		return err
	}
	return c.r.messages(onLog)
}

// AddTempRoots protects paths from the garbage collector for as long as the Conn lives, whether
// they are there yet or not. If ValidPaths finds a path afterwards, the path stays.
func (c *Conn) AddTempRoots(ctx context.Context, paths []store.Path) error {
	return c.do(ctx, "adding temporary roots", storeSilence, func() error {
		return c.each(opAddTempRoot, paths, func(store.Path) {
			c.r.uint() // always 1
			c.tempRoots++
		})
	})
}

// ValidPaths returns those of paths that are in the store, sorted. It fetches nothing.
func (c *Conn) ValidPaths(ctx context.Context, paths []store.Path) (valid []store.Path, err error) {
	return c.validPaths(ctx, paths, storeSilence)
}

// answers tells whether the daemon still does: nil, or why not.
func (c *Conn) answers(ctx context.Context) error {
	_, err := c.validPaths(ctx, nil, idleSilence)
	return err
}

func (c *Conn) validPaths(
	ctx context.Context, paths []store.Path, silence time.Duration,
) (valid []store.Path, err error) {
	err = c.do(ctx, "looking for valid paths", silence, func() error {
		c.w.uint(opQueryValidPaths)
		c.w.uint(uint64(len(paths)))
		for _, p := range paths {
			c.w.string(string(p))
		}
		c.w.uint(0) // do not substitute
		if err := c.request(nil); err != nil {
			return err
		}
		valid = c.r.paths()
		return c.r.err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(valid)
	return valid, nil
}

// Missing is the work that Build would have. Lists are sorted, sizes are in bytes.
type Missing struct {
	// WillBuild are the derivations to build.
	WillBuild []store.Path
	// WillSubstitute are the paths to fetch from binary caches.
	WillSubstitute []store.Path
	// Unknown are paths that can neither be built nor fetched.
	Unknown []store.Path
	// DownloadSize is how much would be transferred for WillSubstitute, NarSize how much that is in
	// the store.
	DownloadSize, NarSize int64
}

// QueryMissing tells what work Build would have for targets. It asks the binary caches that are
// set. One that does not answer costs as much time as connect-timeout, stalled-download-timeout and
// download-attempts allow. What the daemon says of that goes to onLog, which may be nil.
//
// A daemon that asks binary caches for the first time leaves out those that do not answer, for as
// long as it lives.
func (c *Conn) QueryMissing(ctx context.Context, targets []DerivedPath, onLog func(LogLine)) (m Missing, err error) {
	err = c.do(ctx, "asking what is missing", cacheSilence, func() error {
		c.w.uint(opQueryMissing)
		c.w.targets(merge(targets))
		if err := c.request(onLog); err != nil {
			return err
		}
		m.WillBuild = c.r.paths()
		m.WillSubstitute = c.r.paths()
		m.Unknown = c.r.paths()
		m.DownloadSize = c.r.size()
		m.NarSize = c.r.size()
		return c.r.err
	})
	if err != nil {
		return Missing{}, err
	}
	slices.Sort(m.WillBuild)
	slices.Sort(m.WillSubstitute)
	slices.Sort(m.Unknown)
	return m, nil
}

// Override changes settings. The others become what Options said; all do if changes are nil. An
// example is max-jobs: how many derivations are built at a time and, before Nix 2.16, how many
// paths are downloaded.
func (c *Conn) Override(ctx context.Context, changes map[string]string) error {
	settings := make(map[string]string)
	maps.Copy(settings, c.settings)
	maps.Copy(settings, changes)
	return c.do(ctx, "changing settings", storeSilence, func() error { return c.setOptions(settings, nil) })
}

// Infos returns what the store knows about those of paths that are in it, in their order.
func (c *Conn) Infos(ctx context.Context, paths []store.Path) (infos []store.PathInfo, err error) {
	err = c.do(ctx, "asking about paths", storeSilence, func() error {
		return c.each(opQueryPathInfo, paths, func(p store.Path) {
			if info, ok := c.r.info(p); ok {
				infos = append(infos, info)
			}
		})
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// A Registration tells since when a path is in the store. As long as it stays the same, so does the
// path's closure, since Nix does not delete what a valid path refers to.
type Registration struct {
	Path    store.Path
	NarHash string
	Since   time.Time // in seconds
}

// Registrations returns those of paths, in their order. It fails with an *Error if a path is not in
// the store.
func (c *Conn) Registrations(ctx context.Context, paths []store.Path) (registrations []Registration, err error) {
	err = c.do(ctx, "asking since when paths are there", storeSilence, func() error {
		var invalid error
		err := c.each(opQueryPathInfo, paths, func(p store.Path) {
			r, ok := c.r.registration(p)
			if !ok {
				invalid = notValid(p)
			}
			registrations = append(registrations, r)
		})
		return cmp.Or(err, invalid)
	})
	if err != nil {
		return nil, err
	}
	return registrations, nil
}

func notValid(p store.Path) error { return &Error{fmt.Sprintf("path '%s' is not valid", p)} }

// SubstitutableInfos returns what binary caches say about those of paths that they have, sorted by
// path. It makes one request for each path and cache, one after the other, and fetches nothing
// else. The size is 0 if a cache does not tell it. A cache that does not answer either counts as
// empty or causes an *Error; that depends on when it fails. What the daemon says of it goes to
// onLog, which may be nil.
func (c *Conn) SubstitutableInfos(
	ctx context.Context, paths []store.Path, onLog func(LogLine),
) (infos []store.PathInfo, err error) {
	err = c.do(ctx, "asking binary caches about paths", cacheSilence, func() error {
		c.w.uint(opQuerySubstitutable)
		c.w.uint(uint64(len(paths)))
		for _, p := range paths {
			c.w.string(string(p))
			c.w.string("") // its content address
		}
		if err := c.request(onLog); err != nil {
			return err
		}
		for n := c.r.count(); n > 0 && c.r.err == nil; n-- {
			info := store.PathInfo{Path: c.r.path()}
			c.r.skipText() // deriver
			info.References = c.r.paths()
			c.r.size() // of the download
			info.NarSize = c.r.size()
			slices.Sort(info.References)
			infos = append(infos, info)
		}
		return c.r.err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b store.PathInfo) int { return cmp.Compare(a.Path, b.Path) })
	return infos, nil
}

// Closure returns the roots and all that they refer to, sorted by path. It fails with an *Error if
// a path is not in the store.
func (c *Conn) Closure(ctx context.Context, roots []store.Path) (closure []store.PathInfo, err error) {
	err = c.do(ctx, "asking for a closure", storeSilence, func() error {
		seen := map[store.Path]bool{}
		next := unseen(seen, roots)
		for len(next) > 0 {
			var invalid, references []store.Path
			err := c.each(opQueryPathInfo, next, func(p store.Path) {
				info, ok := c.r.info(p)
				if !ok {
					invalid = append(invalid, p)
				}
				closure = append(closure, info)
				references = append(references, unseen(seen, info.References)...)
			})
			if err != nil {
				return err
			}
			if len(invalid) > 0 {
				return notValid(invalid[0])
			}
			if len(seen) > maxCount {
				return fmt.Errorf("more than %d paths", maxCount)
			}
			next = references
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(closure, func(a, b store.PathInfo) int { return cmp.Compare(a.Path, b.Path) })
	return closure, nil
}

// unseen returns the paths that are not in seen, and adds them.
func unseen(seen map[store.Path]bool, paths []store.Path) (unseen []store.Path) {
	for _, p := range paths {
		if !seen[p] {
			seen[p] = true
			unseen = append(unseen, p)
		}
	}
	return unseen
}

// info reads what the store knows about p; ok is false if p is not in it.
func (r *reader) info(p store.Path) (info store.PathInfo, ok bool) {
	info.Path = p
	_, info.NarSize, ok = r.known(p, func() { info.References = r.paths() })
	slices.Sort(info.References)
	return info, ok
}

// registration is info without references: checking these takes most of the time.
func (r *reader) registration(p store.Path) (registration Registration, ok bool) {
	registration, _, ok = r.known(p, r.skipTexts)
	return registration, ok
}

// known reads what the store knows about p, and calls a function for the references. Ok is false if
// p is not in the store.
func (r *reader) known(p store.Path, readReferences func()) (registration Registration, narSize int64, ok bool) {
	registration.Path = p
	if r.uint() == 0 {
		return registration, 0, false
	}
	r.skipText() // deriver
	registration.NarHash = r.text(maxHashBytes)
	readReferences()
	registration.Since = time.Unix(r.size(), 0)
	narSize = r.size()
	r.uint()      // whether it was built here
	r.skipTexts() // signatures
	r.skipText()  // content address
	return registration, narSize, true
}

// each sends one request for each path, as many at a time as fit into the buffer, and calls answer
// for each path whose answer comes, to read it. If the daemon reports an error, each returns it
// after reading the answers to all that was sent.
func (c *Conn) each(op uint64, paths []store.Path, answer func(store.Path)) error {
	for len(paths) > 0 {
		n := 0
		for n < len(paths) && c.w.w.Available() >= maxPathRequest {
			c.w.uint(op)
			c.w.string(string(paths[n]))
			n++
		}
		if err := c.w.flush(); err != nil {
			return err
		}
		var reported error
		for _, p := range paths[:n] {
			if err := c.r.messages(nil); err == nil {
				answer(p)
			} else if reported == nil {
				reported = err
			}
			if c.r.err != nil {
				return c.r.err
			}
		}
		if reported != nil {
			return reported
		}
		paths = paths[n:]
	}
	return nil
}
