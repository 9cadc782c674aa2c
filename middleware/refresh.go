package middleware

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

const (
	// newsKind is the kind of the record that tells replicas to look the package set up.
	newsKind = "news"
	// newsPoll is how often a replica looks whether another one has written it.
	newsPoll = 5 * time.Second
	// newsPause is the shortest time between two look-ups because of news.
	newsPause = time.Second
	// maxHook is how much a hook may send: GitHub's largest is 25 MB.
	maxHook = 25 << 20
	// minToken is how short the secret of hooks may be.
	minToken = 16
	// refreshPath is where hooks go.
	refreshPath = "/-/refresh"
)

// newsKey is the key of the one record that there is.
var newsKey = records.Key(newsKind)

// News is what the record holds: when, and who it was that time.
type news struct {
	At    time.Time `json:"at"`
	Nonce string    `json:"nonce"`
}

// Refresh has all replicas look the package set up, within seconds and however lately they did. The
// error says so if there is nothing to look up.
func (s *Service) Refresh(ctx context.Context) error {
	if s.options.Packages.isPathAlone() {
		return errors.New("packages.path: there is nothing to look up, as every pull sees an edit")
	}
	// A table without memory: what others write is to be seen.
	table := records.NewTable[news](s.store.State(), newsKind, 0)
	if err := table.Put(ctx, newsKey, news{At: time.Now().UTC(), Nonce: rand.Text()}); err != nil {
		return fmt.Errorf("telling all replicas to look the package set up: %w", err)
	}
	return nil
}

// hearNews has this process look the package set up when it is told to, or when another replica was,
// until ctx ends.
func (s *Service) hearNews(ctx context.Context) {
	var known string
	table := records.NewTable[news](s.store.State(), newsKind, 0)
	poll := time.NewTicker(newsPoll)
	defer poll.Stop()
	for {
		told := false
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		case <-s.told:
			told = true
			if err := s.Refresh(ctx); err != nil {
				logrus.WithError(err).Error("nix: other replicas do not look the package set up")
			}
		}
		latest, _, err := table.Get(ctx, newsKey)
		if err != nil && ctx.Err() == nil {
			logrus.WithError(err).Debug("nix: whether there is news of the package set is not known")
		}
		if !told && (err != nil || latest.Nonce == known) {
			continue
		}
		known = latest.Nonce
		s.builder.Doubt()
		select {
		case s.lookUp <- struct{}{}:
		default: // it is about to
		}
		select {
		case <-time.After(newsPause):
		case <-ctx.Done():
			return
		}
	}
}

// Refresh takes hooks of git servers at /-/refresh, with which they tell of a push. A program has it
// by registry.RegisterHandler(middleware.Refresh), after Site and before it starts the registry. A
// registry without refreshtokenfile is left as it is.
//
// The file has the secret: GitHub signs what it sends with it (X-Hub-Signature-256), GitLab sends it
// (X-Gitlab-Token), and others send it as a bearer token. What a hook says is not looked at. The
// answer is 202, before anything is looked up.
func Refresh(config *configuration.Configuration, api http.Handler) http.Handler {
	service := serviceOf(config)
	if service == nil || service.options.RefreshTokenFile == "" {
		return api
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != refreshPath {
			api.ServeHTTP(w, r)
			return
		}
		service.takeHook(w, r)
	})
}

func (s *Service) takeHook(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "a hook is a POST", http.StatusMethodNotAllowed)
		return
	}
	secret, err := readToken(s.options.RefreshTokenFile)
	if err != nil {
		logrus.WithError(err).Error("nix: refreshtokenfile: no hook can be believed")
		http.Error(w, "this registry can't tell who sends this: see its log", http.StatusServiceUnavailable)
		return
	}
	if !isSigned(w, r, secret) {
		http.Error(w, "the secret is another one", http.StatusUnauthorized)
		return
	}
	select {
	case s.told <- struct{}{}:
	default: // it will be looked up in any case
	}
	w.WriteHeader(http.StatusAccepted)
	_, _ = fmt.Fprintln(w, "the package set is being looked up")
}

// isSigned tells whether the sender of a hook knows the secret.
func isSigned(w http.ResponseWriter, r *http.Request, secret string) bool {
	same := func(sent string) bool { return subtle.ConstantTimeCompare([]byte(sent), []byte(secret)) == 1 }
	if signature, ok := strings.CutPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256="); ok {
		sum := hmac.New(sha256.New, []byte(secret))
		if _, err := io.Copy(sum, http.MaxBytesReader(w, r.Body, maxHook)); err != nil {
			return false
		}
		sent, err := hex.DecodeString(signature)
		return err == nil && hmac.Equal(sent, sum.Sum(nil))
	}
	if sent := r.Header.Get("X-Gitlab-Token"); sent != "" {
		return same(sent)
	}
	sent, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && same(sent)
}

// readToken reads the secret of hooks. It may be changed while the registry runs.
func readToken(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(content))
	if len(token) < minToken {
		return "", fmt.Errorf("%s has less than %d characters: write a secret, as by `openssl rand -hex 32`",
			file, minToken)
	}
	return token, nil
}
