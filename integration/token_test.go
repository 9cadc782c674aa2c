package integration

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/libtrust"
)

const (
	tokenIssuer  = "test issuer"
	tokenService = "test registry"
)

// A tokenServer gives its users tokens for what they may do. Every user's password is "secret".
type tokenServer struct {
	key    libtrust.PrivateKey
	header map[string]any                 // of the tokens, beside type and algorithm: how the key is known
	may    map[string]map[string][]string // user → repository → actions
}

// ServeHTTP answers as specified in distribution's docs/content/spec/auth/token.md.
func (s tokenServer) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	user, password, _ := request.BasicAuth()
	if _, ok := s.may[user]; !ok || password != "secret" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	access := []any{}
	for _, scopes := range request.URL.Query()["scope"] {
		for scope := range strings.SplitSeq(scopes, " ") {
			parts := strings.Split(scope, ":")
			if len(parts) != 3 {
				continue
			}
			var granted []string
			for action := range strings.SplitSeq(parts[2], ",") {
				if slices.Contains(s.may[user][parts[1]], action) {
					granted = append(granted, action)
				}
			}
			access = append(access, map[string]any{"type": parts[0], "name": parts[1], "actions": granted})
		}
	}
	token, err := s.token(user, access)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).
		Encode(map[string]any{
			"token": token, "access_token": token, "expires_in": 300,
			"issued_at": time.Now().UTC().Format(time.RFC3339),
		})
}

// token signs what a user may do.
func (s tokenServer) token(user string, access []any) (string, error) {
	now := time.Now()
	claims := map[string]any{
		"iss": tokenIssuer, "sub": user, "aud": tokenService, "jti": rand.Text(), "access": access,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	header := map[string]any{"typ": "JWT", "alg": "ES256"} // what libtrust signs with a P-256 key
	for key, value := range s.header {
		header[key] = value
	}
	var parts []string
	for _, part := range []any{header, claims} {
		text, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	signed := strings.Join(parts, ".")
	signature, _, err := s.key.Sign(strings.NewReader(signed), crypto.SHA256)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// startWithTokens starts a token server, and a registry that believes it.
func startWithTokens(
	t *testing.T, how string, may map[string]map[string][]string, settings ...string,
) (*Registry, tokenServer) {
	t.Helper()
	tokens := tokenServer{key: newKey(t), may: may}
	server := httptest.NewServer(&tokens)
	t.Cleanup(server.Close)
	options := map[string]any{"realm": server.URL + "/token", "issuer": tokenIssuer, "service": tokenService}
	trusted := filepath.Join(Dir(t), "trusted")
	switch how {
	case "rootcertbundle":
		ca := newAuthority(t)
		writeCertificate(t, trusted, ca.certificate)
		tokens.header = certified(ca.issue(t, tokens.key.PublicKey(), x509.ExtKeyUsageAny))
	case "jwks":
		Write(t, trusted, mustJSON(t, map[string]any{"keys": []any{tokens.key.PublicKey()}}))
		tokens.header = map[string]any{"kid": tokens.key.KeyID()}
	}
	options[how] = trusted
	return StartRegistry(t, append(settings, "auth="+mustJSON(t, map[string]any{"token": options}))...), tokens
}

// certified is a header that proves a key by its certificate.
func certified(certificate *x509.Certificate) map[string]any {
	return map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(certificate.Raw)}}
}

// TestTokens pulls and pushes with tokens for single images and actions.
func TestTokens(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"rootcertbundle", "jwks"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			Needs(t, "skopeo", "docker")
			r, tokens := startWithTokens(t, how, map[string]map[string][]string{
				"ada":     {"hello": {"pull"}},
				"charles": {"hello": {"pull", "push"}},
			})
			denied := regexp.MustCompile("denied|unauthorized|authentication required")
			hello, tree := "docker://"+r.Ref("hello"), "docker://"+r.Ref("tree")
			inspect := []string{"inspect", "--tls-verify=false"}
			refused(t, r, denied, "skopeo", append(inspect, "--no-creds", hello)...)
			refused(t, r, denied, "skopeo", append(inspect, "--creds", "ada:guess", hello)...)
			refused(t, r, denied, "skopeo", append(inspect, "--creds", "ada:secret", tree)...)

			// Tokens that nobody should believe.
			access := []any{map[string]any{"type": "repository", "name": "hello", "actions": []string{"pull"}}}
			other := tokenServer{key: newKey(t)}
			for _, forged := range []struct {
				name   string
				header map[string]any
			}{
				{"signed with another key", tokens.header},
				{
					"of another authority",
					certified(newAuthority(t).issue(t, other.key.PublicKey(), x509.ExtKeyUsageAny)),
				},
			} {
				other.header = forged.header
				token, err := other.token("ada", access)
				if err != nil {
					t.Fatal(err)
				}
				if status := ask(t, r, "hello", "Authorization", "Bearer "+token); status != http.StatusUnauthorized {
					t.Errorf("a token %s is answered with %d", forged.name, status)
				}
			}
			if strings.Contains(r.Log(), logBuilt) {
				t.Fatal("an image was built for nobody")
			}

			pulled := destination(t)
			Exec(t, "skopeo", "copy", "--src-tls-verify=false", "--src-creds", "ada:secret", hello, pulled)
			config := Dir(t)
			Write(t, filepath.Join(config, "config.json"), mustJSON(t, map[string]any{"auths": map[string]any{
				r.Addr: map[string]any{"auth": base64.StdEncoding.EncodeToString([]byte("ada:secret"))},
			}}))
			Exec(t, "docker", "--config", config, "pull", "--quiet", r.Ref("hello"))
			refused(t, r, denied, "docker", "--config", config, "pull", "--quiet", r.Ref("tree"))

			push := []string{"copy", "--dest-tls-verify=false", pulled, hello + ":pushed", "--dest-creds"}
			refused(t, r, denied, "skopeo", append(push, "ada:secret")...)
			Exec(t, "skopeo", append(push, "charles:secret")...)
		})
	}
}

// TestClientsByToken has two users build from the same address, each as much as one may.
func TestClientsByToken(t *testing.T) {
	t.Parallel()
	r, tokens := startWithTokens(
		t, "rootcertbundle", nil, "nix.build.perclient=1", "nix.build.hold=1s",
		"nix.packages.path="+FreshPackages(t),
	)
	for _, step := range []struct {
		user, image string
		want        int
	}{
		{"ada", "sleeps.s60", http.StatusTemporaryRedirect},
		{"ada", "sleeps.s61", http.StatusTooManyRequests},
		{"charles", "sleeps.s61", http.StatusTemporaryRedirect},
	} {
		token, err := tokens.token(
			step.user,
			[]any{map[string]any{"type": "repository", "name": step.image, "actions": []string{"pull"}}},
		)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, r, step.image, "Authorization", "Bearer "+token); got != step.want {
			t.Errorf("%s is answered with %d for %s, want %d", step.user, got, step.image, step.want)
		}
	}
}

// TestClientsByAddress pulls through proxies. A client is the address that the proxy next to the
// registry names, if it names one.
func TestClientsByAddress(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.build.perclient=1", "nix.build.hold=1s", "nix.packages.path="+FreshPackages(t))
	const forwarded, real = "X-Forwarded-For", "X-Real-Ip"
	for _, step := range []struct {
		name, image string
		headers     []string
		want        int
	}{
		{"first", "sleeps.s60", []string{forwarded, "192.0.2.1"}, http.StatusTemporaryRedirect},
		{
			"the first, over another proxy", "sleeps.s61", []string{forwarded, "198.51.100.7, 192.0.2.1"},
			http.StatusTooManyRequests,
		},
		{"second", "sleeps.s61", []string{forwarded, "192.0.2.2"}, http.StatusTemporaryRedirect},
		{"the second, named otherwise", "sleeps.s62", []string{real, "192.0.2.2"}, http.StatusTooManyRequests},
		{"of IPv6", "sleeps.s62", []string{forwarded, "2001:db8::1"}, http.StatusTemporaryRedirect},
		{
			"named in two ways", "sleeps.s63", []string{forwarded, "2001:db8::2", real, "192.0.2.3"},
			http.StatusTooManyRequests,
		},
		{"without an address", "sleeps.s63", []string{forwarded, "unknown"}, http.StatusTemporaryRedirect},
		{"on this machine", "sleeps.s64", nil, http.StatusTooManyRequests},
	} {
		if got := ask(t, r, step.image, step.headers...); got != step.want {
			t.Errorf("client %s is answered with %d, want %d", step.name, got, step.want)
		}
	}
}
