package nixstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/derivation"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Read builds what the evaluation of a package set has to read (eval.Realise), within the limits of
// what is built for images. It does not wait for images, which may wait for an evaluation. Beside
// them, one such build runs at a time.
func (s *Store) Read(
	ctx context.Context, drv store.Path, write func(context.Context) error,
) (outputs []store.Path, refused string, release func(), err error) {
	releaseTurn, err := s.reading.Acquire(ctx)
	if err != nil {
		return nil, "", nil, err
	}
	defer releaseTurn()
	s.consultShare(ctx)
	conn, absent, err := s.openRooted(ctx, []store.Path{drv})
	if err != nil {
		return nil, "", nil, err
	}
	release = func() { s.daemons.Put(conn) }
	if len(absent) > 0 {
		err = write(ctx)
	}
	if err == nil {
		outputs, err = s.readOutputs(ctx, conn, drv)
	}
	if err != nil {
		release()
		if refusal := (*status.Error)(nil); errors.As(err, &refusal) && refusal.Kind == status.Denied {
			return nil, refusal.Message, nil, nil
		}
		return nil, "", nil, err
	}
	return outputs, "", release, nil
}

func readDerivation(drv store.Path) (*derivation.Derivation, error) {
	file, err := os.Open(string(drv))
	if err != nil {
		return nil, fmt.Errorf("reading a derivation: %w", err)
	}
	defer file.Close()
	parsed, err := derivation.ReadDerivation(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", drv, err)
	}
	return parsed, nil
}

func (s *Store) readOutputs(ctx context.Context, conn *daemon.Conn, drv store.Path) ([]store.Path, error) {
	parsed, err := readDerivation(drv)
	if err != nil {
		return nil, err
	}
	var outputs []store.Path
	for name, output := range parsed.Outputs {
		if output.Path == "" {
			return nil, status.Errorf(
				status.Denied, "%s is content-addressed, or made of what is, and evaluations can't read such",
				strings.TrimSuffix(drv.Name(), ".drv"),
			)
		}
		path, err := store.ParsePath(output.Path)
		if err != nil {
			return nil, status.Errorf(status.Denied, "the output %s of %s has no store path", name, drv.Name())
		}
		outputs = append(outputs, path)
	}
	slices.Sort(outputs)
	target, err := daemon.Outputs(drv)
	if err != nil {
		return nil, err
	}
	targets := []daemon.DerivedPath{target}
	if err := conn.AddTempRoots(ctx, outputs); err != nil {
		return nil, err
	}
	if _, err := s.make(ctx, conn, targets, s.newBuildLog()); err != nil {
		return nil, err
	}
	closure, err := s.closures.of(ctx, conn, outputs)
	if err != nil {
		return nil, err
	}
	if size := store.NarSize(closure); size > s.options.MaxBytes {
		return nil, TooLarge(size, s.options.MaxBytes)
	}
	return outputs, nil
}
