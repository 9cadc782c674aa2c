package middleware

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	"github.com/distribution/distribution/v3/registry/auth"
	"github.com/sirupsen/logrus"
)

// tokenLife is how long a token can be used. Clients then ask for another one by themselves.
const tokenLife = 15 * time.Minute

// tokenFile is where tokens are, below /v2/.
const tokenFile = "token"

// Tokens gives tokens to the clients of a registry whose access controller is anonymouspull over
// one for passwords, such as htpasswd. Other registries are left as they are. A program has it by
// registry.RegisterHandler(middleware.Tokens), before it starts the registry.
//
// Docker needs it: challenged for a password, it pulls nothing without one, but it asks for a token
// also without a password.
func Tokens(config *configuration.Configuration, api http.Handler) http.Handler {
	controller, ok := config.Auth.Parameters()[controllerKey].(*anonymousPull)
	if !ok || !controller.wantsPasswords() {
		return api
	}
	tokens, err := newTokens(config)
	if err != nil {
		logrus.WithError(err).Error("auth." + anonymousPullName + ": there are no tokens")
		return api
	}
	controller.tokens = tokens
	place := path.Join("/", config.HTTP.Prefix, "v2", tokenFile)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == place {
			controller.giveToken(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// tokens seals the credentials of clients into tokens. So the registry keeps none, and a token ends
// with the password that is in it. It is safe for concurrent use.
type tokens struct {
	sealer cipher.AEAD
	host   *url.URL // http.host; nil: the host of each request
}

// newTokens derives the key from http.secret, which replicas share.
func newTokens(config *configuration.Configuration) (*tokens, error) {
	secret := config.HTTP.Secret
	if secret == "" {
		secret = rand.Text()
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "nixery-registry tokens", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	t := new(tokens)
	if config.HTTP.Host != "" {
		if t.host, err = url.Parse(config.HTTP.Host); err != nil {
			return nil, fmt.Errorf("http.host: %w", err)
		}
	}
	t.sealer, err = cipher.NewGCMWithRandomNonce(block)
	return t, err
}

// credentials is the content of a token.
type credentials struct {
	User, Password string // both empty: the token is nobody's
	Until          time.Time
}

func (t *tokens) seal(what credentials) (string, error) {
	text, err := json.Marshal(what)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(t.sealer.Seal(nil, nil, text, nil)), nil
}

// unseal returns false for a text that is not one of these tokens, or no longer one.
func (t *tokens) unseal(token string) (what credentials, ok bool) {
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		text, err = t.sealer.Open(nil, nil, text, nil)
	}
	if err == nil {
		err = json.Unmarshal(text, &what)
	}
	return what, err == nil && time.Now().Before(what.Until)
}

// opened returns a request with the credentials of its token instead of the token.
func (t *tokens) opened(request *http.Request) *http.Request {
	token, ok := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return request
	}
	credentials, ok := t.unseal(token)
	if !ok {
		return request
	}
	request = request.Clone(request.Context())
	request.SetBasicAuth(credentials.User, credentials.Password)
	return request
}

// A tokenChallenge sends a client for a token where another challenge asks for a password.
type tokenChallenge struct {
	auth.Challenge
	tokens *tokens
	access []auth.Access
}

// SetHeaders implements auth.Challenge.
func (c tokenChallenge) SetHeaders(request *http.Request, w http.ResponseWriter) {
	urls := v2.NewURLBuilderFromRequest(request, false)
	if c.tokens.host != nil {
		urls = v2.NewURLBuilder(c.tokens.host, false)
	}
	base, err := urls.BuildBaseURL()
	if err != nil {
		c.Challenge.SetHeaders(request, w)
		return
	}
	challenge := fmt.Sprintf(
		"Bearer realm=%q,service=%q", strings.TrimSuffix(base, "/")+"/"+tokenFile, anonymousPullName,
	)
	if len(c.access) > 0 {
		scopes := make([]string, len(c.access))
		for i, access := range c.access {
			scopes[i] = access.Type + ":" + access.Name + ":" + access.Action
		}
		challenge += fmt.Sprintf(",scope=%q", strings.Join(scopes, " "))
	}
	w.Header().Set("WWW-Authenticate", challenge)
}

// giveToken answers a client that wants a token, be it for the user that it says it is or nobody's.
func (a *anonymousPull) giveToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed) // clients of OAuth ask again by GET
		return
	}
	what := credentials{Until: time.Now().Add(tokenLife)}
	if !isAnonymous(r) {
		_, err := a.AccessController.Authorized(r)
		if challenge := auth.Challenge(nil); errors.As(err, &challenge) {
			challenge.SetHeaders(r, w)
			_ = errcode.ServeJSON(w, errcode.ErrorCodeUnauthorized)
			return
		}
		if err != nil {
			logrus.WithError(err).Error("auth." + anonymousPullName + ": nobody can log in")
			_ = errcode.ServeJSON(w, errcode.ErrorCodeUnavailable)
			return
		}
		what.User, what.Password, _ = r.BasicAuth()
	}
	token, err := a.tokens.seal(what)
	if err != nil {
		_ = errcode.ServeJSON(w, errcode.ErrorCodeUnknown)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"token":        token,
		"access_token": token,
		"expires_in":   int(tokenLife.Seconds()),
		"issued_at":    time.Now().UTC().Format(time.RFC3339),
	})
}

// wantsPasswords tells whether the other access controller takes a user and a password, not tokens
// of somebody else's.
func (a *anonymousPull) wantsPasswords() bool {
	request, err := http.NewRequest(http.MethodGet, "http://localhost/v2/", nil) //nolint:noctx // it is not sent
	if err != nil {
		return false
	}
	_, err = a.AccessController.Authorized(request)
	challenge := auth.Challenge(nil)
	if !errors.As(err, &challenge) {
		return false
	}
	answer := headers{}
	challenge.SetHeaders(request, answer)
	return strings.HasPrefix(http.Header(answer).Get("WWW-Authenticate"), "Basic ")
}

// headers are an answer without a body.
type headers http.Header

func (h headers) Header() http.Header       { return http.Header(h) }
func (headers) Write(p []byte) (int, error) { return len(p), nil }
func (headers) WriteHeader(int)             {}
