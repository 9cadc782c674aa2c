package nixstore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Infos asks the store about paths, and binary caches about those that it does not have. It fails
// if a binary cache does not answer. What neither has is left out.
func (s *Store) Infos(ctx context.Context, wanted []store.Path) ([]store.PathInfo, error) {
	conn, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.daemons.Put(conn)
	infos, err := conn.Infos(ctx, wanted)
	if err != nil || len(infos) == len(wanted) {
		return infos, err
	}
	there := make(map[store.Path]bool, len(infos))
	for _, info := range infos {
		there[info.Path] = true
	}
	absent := slices.DeleteFunc(slices.Clone(wanted), func(p store.Path) bool { return there[p] })
	substitutable, err := askCaches(ctx, conn, absent)
	return append(infos, substitutable...), err
}

// TryCaches finds out whether binary caches answer, with a few paths and one connection.
// Connections that are the first ever to ask a cache must not be several at a time: Nix 2.8 then
// stumbles over what it remembers of the cache.
func (s *Store) TryCaches(ctx context.Context, paths []store.Path) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer s.daemons.Put(conn)
	_, err = askCaches(ctx, conn, paths)
	return err
}

// askCaches fails if a binary cache does not answer: what it would have said must not be missing in
// what is kept for good.
func askCaches(ctx context.Context, conn *daemon.Conn, paths []store.Path) ([]store.PathInfo, error) {
	var said []string
	infos, err := conn.SubstitutableInfos(ctx, paths, func(line daemon.LogLine) {
		said = append(said, strings.TrimSpace(line.Text))
	})
	if err == nil && len(said) > 0 {
		err = fmt.Errorf("asking binary caches about paths: %s", strings.Join(said, "; "))
	}
	// Nothing but what was asked: the daemon passes on what caches say.
	return slices.DeleteFunc(infos, func(info store.PathInfo) bool { return !slices.Contains(paths, info.Path) }), err
}
