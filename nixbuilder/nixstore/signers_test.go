package nixstore

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// TestSigners asks caches of the configuration, and no others, who has signed a path: a builder can
// have the daemon say that any URL has one.
func TestSigners(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		asked = append(asked, user+":"+password+" "+r.URL.Path)
		if r.URL.Path == "/signed/00000000000000000000000000000000.narinfo" {
			_, _ = w.Write([]byte("Sig: cache.example.org-1:" + strings.Repeat("A", 86) + "==\n"))
		}
	}))
	t.Cleanup(server.Close)
	withPassword := func(path string) string {
		u, err := url.Parse(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("user", "secret")
		return u.String()
	}
	s := &Store{options: Options{
		Substituters: []string{withPassword("/signed/?priority=3"), server.URL + "/unsigned"},
	}}
	for _, test := range []struct {
		name, cache, want string
		asked             string // empty: nobody
	}{
		{
			"with a password", server.URL + "/signed", "it is signed by cache.example.org-1",
			"user:secret /signed/00000000000000000000000000000000.narinfo",
		},
		{
			"unsigned", server.URL + "/unsigned", "it is not signed",
			": /unsigned/00000000000000000000000000000000.narinfo",
		},
		{"of no configuration", server.URL + "/metadata", "`nix path-info --sigs --store " + server.URL + "/metadata ", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked = nil
			if got := s.signers(t.Context(), substitute{store.Path("/nix/store/00000000000000000000000000000000-app-1"), test.cache}); !strings.HasPrefix(
				got, test.want,
			) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if got := strings.Join(asked, ", "); got != test.asked {
				t.Errorf("asked for %q, want %q", got, test.asked)
			}
		})
	}
}
