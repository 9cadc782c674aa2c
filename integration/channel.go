package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A channelMirror serves a directory as the channel nixos-26.05, on loopback.
type channelMirror struct {
	t       testing.TB
	dir     string
	url     string
	prepare func(revision string) // if not nil, called before an archive is made

	mu       sync.Mutex
	revision string
	asked    map[string]int // how often, by path
	silent   chan struct{}  // nil: it answers; else it keeps silent until this is closed
}

// serveChannel starts at a revision, which is a commit.
func serveChannel(t testing.TB, dir, revision string) *channelMirror {
	t.Helper()
	m := &channelMirror{t: t, dir: dir, revision: revision, asked: make(map[string]int)}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

// packages is the registry's option of that name.
func (m *channelMirror) packages() string {
	return fmt.Sprintf(`{"channel": "nixos-26.05", "channels": %q, "archives": %q}`, m.url, m.url)
}

func (m *channelMirror) moveTo(revision string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision = revision
}

func (m *channelMirror) requests() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.asked)
}

// keepSilent takes requests and does not answer them until answer is called.
func (m *channelMirror) keepSilent() (answer func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silent = make(chan struct{})
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		close(m.silent)
		m.silent = nil
	})
}

// ServeHTTP implements http.Handler.
func (m *channelMirror) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	m.mu.Lock()
	m.asked[request.URL.Path]++
	silent := m.silent
	m.mu.Unlock()
	if silent != nil {
		select {
		case <-silent:
		case <-request.Context().Done():
			m.t.Error("the registry has left a remote that keeps silent")
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch request.URL.Path {
	case "/nixos-26.05/git-revision":
		fmt.Fprintln(w, m.revision)
	case "/" + m.revision + ".tar.gz":
		if m.prepare != nil {
			m.prepare(m.revision)
		}
		err := writeArchive(w, m.dir, "nixpkgs-"+m.revision)
		if err != nil && !errors.As(err, new(*net.OpError)) { // the network has ended
			m.t.Error(err)
		}
	default:
		http.NotFound(w, request)
	}
}

// writeArchive writes a directory as GitHub archives a commit.
func writeArchive(w io.Writer, dir, top string) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	archive := tar.NewWriter(z)
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		header := tar.Header{
			Name:    top + "/" + rel,
			Size:    int64(len(content)),
			Mode:    int64(info.Mode().Perm()),
			ModTime: time.Unix(1e9, 0),
		}
		if err := archive.WriteHeader(&header); err != nil {
			return err
		}
		_, err = archive.Write(content)
		return err
	})
	for _, step := range []func() error{archive.Close, z.Close} {
		if err == nil {
			err = step()
		}
	}
	if err == nil {
		_, err = w.Write(b.Bytes())
	}
	return err
}
