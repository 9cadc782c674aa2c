package middleware

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/auth"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/silly"
)

func TestParseAnonymousPull(t *testing.T) {
	htpasswd := map[any]any{"realm": "test"}
	for _, test := range []struct {
		name    string
		options map[string]any
		build   string
		want    []string // how the faults begin
	}{
		{name: "default", options: map[string]any{"htpasswd": htpasswd}, build: buildUser},
		{name: "any", options: map[string]any{"htpasswd": htpasswd, "build": "any"}, build: buildAny},
		{
			name: "a value that is none", options: map[string]any{"htpasswd": htpasswd, "build": "all"},
			want: []string{"auth.anonymouspull.build: all is not one of"},
		},
		{
			name: "a boolean", options: map[string]any{"htpasswd": htpasswd, "build": true},
			want: []string{"auth.anonymouspull.build: true is not one of"},
		},
		{
			name: "nobody's", options: map[string]any{"build": "any"},
			want: []string{"auth.anonymouspull: names no access controller"},
		},
		{
			name: "two", options: map[string]any{"htpasswd": htpasswd, "token": htpasswd},
			want: []string{"auth.anonymouspull.token: is a second access controller"},
		},
		{
			name: "itself", options: map[string]any{"anonymouspull": htpasswd},
			want: []string{"auth.anonymouspull.anonymouspull: is not another"},
		},
		{
			name: "a text", options: map[string]any{"htpasswd": "/etc/htpasswd"},
			want: []string{"auth.anonymouspull.htpasswd: is not another access controller with"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := &configuration.Configuration{Auth: configuration.Auth{"anonymouspull": test.options}}
			faults := anonymousPullFaults(config)
			if len(faults) != len(test.want) ||
				!slices.EqualFunc(
					faults, test.want,
					func(fault error, want string) bool { return strings.HasPrefix(fault.Error(), want) },
				) {
				t.Errorf("the faults are %v, want %v", faults, test.want)
			}
			if parsed, err := parseAnonymousPull(test.options); err == nil &&
				(parsed.build != test.build || parsed.inner != "htpasswd" || parsed.options["realm"] != "test") {
				t.Errorf("got %+v", parsed)
			}
		})
	}
}

// TestTokensAreForPasswords gives tokens where the other access controller wants passwords, and
// leaves alone the challenges of one that has tokens of its own.
func TestTokensAreForPasswords(t *testing.T) {
	for name, test := range map[string]struct {
		options   map[string]any
		challenge string
	}{
		"htpasswd": {
			map[string]any{"realm": "test", "path": filepath.Join(t.TempDir(), "htpasswd")},
			`Bearer realm="https://registry.example.org/v2/token",service="anonymouspull"`,
		},
		"silly": {map[string]any{"realm": "test", "service": "other"}, `Bearer realm="test",service="other"`},
	} {
		t.Run(name, func(t *testing.T) {
			config := &configuration.Configuration{
				Auth: configuration.Auth{anonymousPullName: configuration.Parameters{name: test.options}},
			}
			config.HTTP.Host = "https://registry.example.org"
			controller, err := auth.GetAccessController(anonymousPullName, config.Auth.Parameters())
			if err != nil {
				t.Fatal(err)
			}
			Tokens(config, http.NotFoundHandler())
			request, answer := httptest.NewRequest("GET", "/v2/", nil), httptest.NewRecorder()
			_, err = controller.Authorized(request)
			challenge, ok := err.(auth.Challenge) //nolint:errorlint // as the registry does
			if !ok {
				t.Fatalf("the error is %v", err)
			}
			challenge.SetHeaders(request, answer)
			if got := answer.Header().Get("WWW-Authenticate"); got != test.challenge {
				t.Errorf("challenged with %s, want %s", got, test.challenge)
			}
		})
	}
}

func TestTokensEnd(t *testing.T) {
	config := new(configuration.Configuration)
	config.HTTP.Secret = "shared"
	mine, err := newTokens(config)
	if err != nil {
		t.Fatal(err)
	}
	replica, err := newTokens(config)
	if err != nil {
		t.Fatal(err)
	}
	config.HTTP.Secret = "another"
	other, err := newTokens(config)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(until time.Time) string {
		token, err := mine.seal(credentials{"ada", "lovelace", until})
		if err != nil || strings.Contains(token, "lovelace") {
			t.Fatalf("the token is %s, %v", token, err)
		}
		return token
	}
	token := seal(time.Now().Add(time.Hour))
	for name, test := range map[string]struct {
		by    *tokens
		token string
		want  bool
	}{
		"own":              {mine, token, true},
		"a replica's":      {replica, token, true},
		"another secret's": {other, token, false},
		"too old":          {mine, seal(time.Now().Add(-time.Second)), false},
		"changed":          {mine, token[:len(token)-4] + "AAAA", false},
		"cut":              {mine, token[:5], false},
		"none":             {mine, "", false},
	} {
		if what, ok := test.by.unseal(test.token); ok != test.want ||
			ok && (what.User != "ada" || what.Password != "lovelace") {
			t.Errorf("%s: %t, want %t", name, ok, test.want)
		}
	}
}
