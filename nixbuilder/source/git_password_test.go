package source

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// TestGitPassword asks a server for a repository with the password of a URL, and another server
// that redirects there.
func TestGitPassword(t *testing.T) {
	const user, password = "us er@x", "CANARY' $(id)\""
	var mu sync.Mutex
	var seen []string
	var arguments []string
	serve := func(name string) *httptest.Server {
		server := httptest.NewServer(nil)
		server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			for _, file := range processes(t) {
				if text, err := os.ReadFile("/proc/" + file + "/cmdline"); err == nil &&
					strings.Contains(string(text), "git") {
					arguments = append(arguments, strings.ReplaceAll(string(text), "\x00", " "))
				}
			}
			if to := r.URL.Query().Get("to"); strings.HasPrefix(r.URL.Path, "/elsewhere/") && to == "" {
				http.Redirect(
					w, r,
					strings.Replace(server.URL, "127.0.0.1", "localhost", 1)+r.URL.Path+"?to=here&"+r.URL.RawQuery,
					http.StatusFound,
				)
				return
			}
			authorization := r.Header.Get("Authorization")
			seen = append(seen, name+" "+authorization)
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		t.Cleanup(server.Close)
		return server
	}
	server := serve("server")
	runner, _ := proc.New()
	want := "server Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	for _, test := range []struct {
		path string
		sent bool
	}{{"/set.git", true}, {"/elsewhere/set.git", false}} {
		t.Run(test.path, func(t *testing.T) {
			seen, arguments = nil, nil
			url := strings.Replace(
				server.URL, "http://", "http://us%20er%40x:CANARY%27%20%24%28id%29%22@", 1,
			) + test.path
			git, err := NewGit(runner, GitOptions{URL: url, Dir: t.TempDir(), Refresh: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			_, err = git.Pin(t.Context(), Latest)
			if err == nil || strings.Contains(fmt.Sprintf("%+v", err), "CANARY") {
				t.Errorf("the error is %v", err)
			}
			if slices.Contains(seen, want) != test.sent {
				t.Errorf("sent were %q", seen)
			}
			if !test.sent && slices.ContainsFunc(seen, func(s string) bool { return strings.Contains(s, "Basic") }) {
				t.Errorf("another host gets %q", seen)
			}
			if all := strings.Join(arguments, "\n"); !strings.Contains(all, "ls-remote") ||
				strings.Contains(all, "CANARY") {
				t.Errorf("git's arguments are %s", all)
			}
		})
	}
}

func processes(t *testing.T) (ids []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name[0] >= '0' && name[0] <= '9' {
			ids = append(ids, name)
		}
	}
	return ids
}
