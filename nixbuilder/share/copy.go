package share

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// nix runs Nix's programs.
type nix struct {
	runner   *proc.Runner
	settings map[string]string
	env      []string
}

func (n nix) run(ctx context.Context, program string, args ...string) (string, error) {
	for _, name := range slices.Sorted(maps.Keys(n.settings)) {
		args = append(args, "--option", name, n.settings[name])
	}
	output, err := n.runner.Run(ctx, proc.Command{
		Program: program, Args: args, Env: n.env, Kill: syscall.SIGTERM, GiveWay: true,
	})
	if failed := (*proc.Error)(nil); errors.As(err, &failed) && failed.Exit > 0 {
		err = errors.New(reason(failed))
	}
	return strings.TrimSpace(string(output.Stdout)), err
}

// reason is what Nix says of a failure, on a line.
func reason(failed *proc.Error) string {
	text := failed.Stderr
	if i := strings.LastIndex("\n"+text, "\nerror: "); i >= 0 {
		text = text[i+len("error: "):]
	}
	return strings.Join(strings.Fields(text), " ")
}

// copy copies a path, with all that it refers to, and signs it. What is there is not copied again.
// A path comes after what it refers to, so that the cache is whole at any time.
func (s *Share) copy(ctx context.Context, p store.Path) error {
	ctx, cancel := context.WithTimeout(ctx, copyTime)
	defer cancel()
	base := s.options.Shown()
	if s.gateway != nil {
		base = s.gateway.WriteURL()
	}
	to := s.options.at(
		base, map[string]string{"compression": "zstd"}, map[string]string{"secret-key": s.options.SecretKeyFile},
	)
	_, err := s.nix.run(ctx, "nix", "--extra-experimental-features", "nix-command", "copy", "--to", to, string(p))
	if err == nil || s.gateway == nil {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), base, s.options.Shown()))
}

// Try tries out whether the cache can be written to, with a small path that nobody else has. It
// leaves some hundred bytes there.
func (s *Share) Try(ctx context.Context) error {
	dir, err := os.MkdirTemp(s.waiting.dir, "try-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	name := filepath.Join(dir, "nixery-registry-was-here")
	if err := os.WriteFile(name, []byte(time.Now().UTC().Format(time.RFC3339Nano)), 0o644); err != nil {
		return err
	}
	added, err := s.nix.run(ctx, "nix-store", "--add", name)
	if err != nil {
		return err
	}
	p, err := store.ParsePath(added)
	if err != nil {
		return err
	}
	return s.copy(ctx, p)
}

// Run copies what waits until ctx ends, one path at a time. What can't be copied is tried again
// after the others.
func (s *Share) Run(ctx context.Context, from Store) {
	pause := s.pause
	failing := false
	for ctx.Err() == nil {
		entries := s.look()
		for _, e := range entries {
			err := s.settle(ctx, from, e)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				pause = s.pause
				if failing && !e.derivation() {
					failing = false
					logrus.Infof("nix: nix.share.to: copying to %s goes on", s.options.Shown())
				}
				continue
			}
			s.count(metrics.SharedFailed)
			if !failing {
				failing = true
				logrus.WithError(err).Warnf("nix: nix.share.to: %s can't be copied to %s: trying again, %d wait",
					e.path.Name(), s.options.Shown(), len(entries))
			}
			sleep(ctx, pause, nil)
			pause = min(2*pause, maxPause)
		}
		if len(entries) == 0 || s.onlyBuilding(entries) {
			sleep(ctx, lookAgain, s.woken)
		}
	}
}

// Drain waits until nothing waits any more, or a copy has failed, or ctx has ended. The error says
// what waits still: the next process copies it.
func (s *Share) Drain(ctx context.Context) error {
	before := s.counted(metrics.SharedFailed)
	for {
		entries, err := s.waiting.all()
		switch {
		case err != nil || len(entries) == 0:
			return err
		case ctx.Err() != nil || s.counted(metrics.SharedFailed) > before:
			return fmt.Errorf("nix.share: %d store paths wait to be copied to %s: the next registry with this cachedir does it",
				len(entries), s.options.Shown())
		}
		sleep(ctx, drainPause, nil)
	}
}

// drainPause is how long it may take until Drain notices that nothing waits.
const drainPause = 50 * time.Millisecond

// look returns what waits, and notes how much that is.
func (s *Share) look() []entry {
	entries, err := s.waiting.all()
	if err != nil {
		logrus.WithError(err).Warn("nix: nix.share")
	}
	s.setInLine(func(int) int { return len(entries) })
	return entries
}

// settle does what is to be done for an entry, and takes it off the list.
func (s *Share) settle(ctx context.Context, from Store, e entry) error {
	switch {
	case e.derivation() && s.isBuilding(e.path):
		return nil
	case time.Since(e.since) > maxAge:
		s.count(metrics.SharedDropped)
		logrus.Warnf("nix: nix.share: %s is not shared: it could not be copied for %v", e.path.Name(), maxAge)
		return s.waiting.remove(e.path)
	case e.derivation():
		outputs, err := from.ValidOutputs(ctx, e.path)
		if err != nil {
			return err
		}
		s.add(outputs)
		return s.waiting.remove(e.path)
	}
	valid, err := from.Valid(ctx, []store.Path{e.path})
	if err != nil {
		return err
	}
	if len(valid) == 0 {
		s.count(metrics.SharedDropped)
		logrus.Infof("nix: nix.share: %s is not shared: it is not in the Nix store any more", e.path.Name())
		return s.waiting.remove(e.path)
	}
	if err := s.copy(ctx, e.path); err != nil {
		return err
	}
	s.count(metrics.SharedCopied)
	logrus.Debugf("nix: nix.share: copied %s", e.path.Name())
	if err := s.waiting.remove(e.path); err != nil {
		return fmt.Errorf("noting that it was copied: %w", err)
	}
	return nil
}

func (s *Share) isBuilding(drv store.Path) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.building[drv] > 0
}

// onlyBuilding tells whether there is nothing to be done for entries before a build ends.
func (s *Share) onlyBuilding(entries []entry) bool {
	return !slices.ContainsFunc(entries, func(e entry) bool { return !e.derivation() || !s.isBuilding(e.path) })
}

// sleep returns after some time, or when something is sent, or when ctx ends.
func sleep(ctx context.Context, d time.Duration, woken <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-woken:
	case <-ctx.Done():
	}
}
