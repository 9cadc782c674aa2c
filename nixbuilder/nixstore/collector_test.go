package nixstore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// collecting is a collector of a Nix store of a test's own, which has files of 100 kB.
type collecting struct {
	*collector
	t     testing.TB
	files []store.Path
}

func newCollecting(t testing.TB, most int64, files int) *collecting {
	t.Helper()
	needs.Tool(t, "nix-daemon")
	needs.Tool(t, "nix-store")
	root := t.TempDir()
	t.Cleanup(func() { // the store is read-only, to anyone but root
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, 0o700)
			}
			return nil
		})
	})
	runner, _ := proc.New()
	options := daemon.Options{
		Store:    "local?root=" + root,
		Settings: map[string]string{"substituters": "", "build-users-group": ""},
		Env:      []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root, "NIX_CONF_DIR=" + root},
	}
	c := &collecting{t: t, collector: newCollector(most, func(ctx context.Context) (*daemon.Conn, error) {
		return daemon.Open(ctx, runner, options)
	}, func() {})}
	add := []string{"--store", options.Store, "--option", "build-users-group", "", "--add"}
	for i := range files {
		file := filepath.Join(root, fmt.Sprint("file", i))
		if err := os.WriteFile(file, bytes.Repeat([]byte{byte(i)}, 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
		add = append(add, file)
	}
	output, err := runner.Run(t.Context(), proc.Command{Program: "nix-store", Args: add, Env: options.Env})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.FieldsSeq(string(output.Stdout)) {
		path, err := store.ParsePath(line)
		if err != nil {
			t.Fatal(err)
		}
		c.files = append(c.files, path)
	}
	return c
}

func (c *collecting) conn() *daemon.Conn {
	c.t.Helper()
	conn, err := c.open(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(conn.Close)
	return conn
}

func (c *collecting) size() int64 {
	c.t.Helper()
	size, err := c.conn().Size(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return size
}

// A store that is too large is brought below the limit, and one that is not stays as it is. What has a
// root stays.
func TestCollector(t *testing.T) {
	c := newCollecting(t, 1_000_000, 9)
	before := c.size()
	if err := c.look(t.Context()); err != nil || c.size() != before || c.phases.Load() != 0 {
		t.Errorf("below the limit: %v, %d bytes of %d, phase %d", err, c.size(), before, c.phases.Load())
	}
	c = newCollecting(t, 1_000_000, 20)
	roots := c.conn()
	kept := c.files[:3]
	if err := roots.AddTempRoots(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	if err := c.look(t.Context()); err != nil || c.size() > 900_000 || c.size() < 700_000 {
		t.Errorf("above the limit: %v, %d bytes are left", err, c.size())
	}
	if c.phases.Load() != 2 {
		t.Errorf("after a collection, the phase is %d", c.phases.Load())
	}
	if valid, err := roots.ValidPaths(t.Context(), kept); err != nil || len(valid) != len(kept) {
		t.Errorf("of %d paths with roots, there are %v, %v", len(kept), valid, err)
	}
}

// Where what is in use is too large by itself, nothing else is left, and the operator is told.
func TestCollectorInUse(t *testing.T) {
	var log bytes.Buffer
	output := logrus.StandardLogger().Out
	logrus.SetOutput(&log)
	defer logrus.SetOutput(output)
	c := newCollecting(t, 1_000_000, 20)
	if err := c.conn().AddTempRoots(t.Context(), c.files[:15]); err != nil {
		t.Fatal(err)
	}
	if err := c.look(t.Context()); err != nil || c.size() < 1_500_000 || c.size() > 1_600_000 {
		t.Errorf("%v, %d bytes are left", err, c.size())
	}
	if !strings.Contains(log.String(), "level=warning") || !strings.Contains(log.String(), "is in use, or has roots") {
		t.Errorf("the log says %s", log.String())
	}
}

// The collector looks at its start, and when the store has grown, until it is closed. A daemon that
// can't be opened ends nothing.
func TestCollectorRuns(t *testing.T) {
	looks := make(chan struct{})
	c := newCollector(1, func(ctx context.Context) (*daemon.Conn, error) {
		select {
		case looks <- struct{}{}:
		case <-ctx.Done():
		}
		return nil, os.ErrNotExist
	}, nil)
	c.start()
	defer c.close()
	for range 3 {
		select {
		case <-looks:
		case <-time.After(time.Minute):
			t.Fatal("it does not look")
		}
		for range 5 {
			c.grow() // however often
		}
	}
	c.close()
	off := newCollector(0, nil, nil)
	off.start()
	off.grow()
	off.close()
}

// Whoever began before a collection, during it or between its beginning and its end was disturbed.
func TestDisturbed(t *testing.T) {
	s := &Store{collector: newCollector(1, nil, nil)}
	before := s.Phase()
	if s.Disturbed(before) {
		t.Error("nothing has happened")
	}
	s.collector.phases.Add(1)
	during := s.Phase()
	if !s.Disturbed(before) || !s.Disturbed(during) {
		t.Error("a collection is under way")
	}
	s.collector.phases.Add(1)
	if !s.Disturbed(before) || !s.Disturbed(during) || s.Disturbed(s.Phase()) {
		t.Error("a collection has ended")
	}
}
