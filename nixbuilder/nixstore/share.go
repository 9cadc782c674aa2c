package nixstore

import (
	"context"
	"errors"
	"io/fs"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A Share is a binary cache that gets what is built and is asked before others (package share). No
// image fails because of it. It is safe for concurrent use.
type Share interface {
	// Substituter and PublicKey are what Nix's settings have of it.
	Substituter() string
	PublicKey() string
	// Usable tells whether it can be asked now.
	Usable(ctx context.Context) bool
	// Owns tells whether a text of Nix's is about it.
	Owns(text string) bool
	// Failed has it left alone for a while.
	Failed(err error)
	// Expect is told of derivations before they are built. Done is called when that is over, with
	// outputs that were built.
	Expect(drvs []store.Path) (done func(outputs []store.Path))
}

// consultShare has daemons that are opened from now on ask the share if it can be asked, and leave
// it out otherwise: one that does not answer would keep each image waiting.
func (s *Store) consultShare(ctx context.Context) {
	if s.options.Share == nil {
		return
	}
	usable := s.options.Share.Usable(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if usable != s.shared {
		s.shared = usable
		s.daemons.Reset(daemon.Opener(s.runner, s.options.daemon(usable)))
	}
}

// leave has the share left alone if it did not answer.
func (s *Store) leave(log *buildLog) {
	if log.share != "" {
		s.options.Share.Failed(errors.New(log.share))
	}
}

func (s *Store) newBuildLog() *buildLog {
	log := newBuildLog()
	if s.options.Share != nil {
		log.isShare = s.options.Share.Owns
	}
	return log
}

// expect tells the share of derivations that are about to be built. Done is called with the results,
// if there are any.
func (s *Store) expect(drvs []store.Path) (done func([]daemon.Result)) {
	if s.options.Share == nil || len(drvs) == 0 {
		return func([]daemon.Result) {}
	}
	over := s.options.Share.Expect(drvs)
	return func(results []daemon.Result) {
		var outputs []store.Path
		for _, result := range results {
			if result.Status != daemon.Built {
				continue
			}
			for _, output := range result.Outputs { // those that float, too
				outputs = append(outputs, output)
			}
		}
		over(outputs)
	}
}

// ValidOutputs are the outputs of a derivation that are in the store, but for those that float. It
// has none if the derivation is gone.
func (s *Store) ValidOutputs(ctx context.Context, drv store.Path) ([]store.Path, error) {
	parsed, err := readDerivation(drv)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var outputs []store.Path
	for _, output := range parsed.Outputs {
		if p, err := store.ParsePath(output.Path); err == nil {
			outputs = append(outputs, p)
		}
	}
	return s.Valid(ctx, outputs)
}

// Valid are those of paths that are in the store.
func (s *Store) Valid(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	conn, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.daemons.Put(conn)
	return conn.ValidPaths(ctx, paths)
}
