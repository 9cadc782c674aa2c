package middleware

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/distribution/v3/registry/storage"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// An image that a revision did not give is looked up again at each pull, until there is one.
func TestPullDoubtsWhatFailed(t *testing.T) {
	p := newPulling(t)
	synctest.Test(t, func(t *testing.T) {
		p.builder.buildErr = status.Errorf(status.Denied, "it does not compile")
		for range 2 {
			if _, err := p.pull(t, "latest"); err == nil {
				t.Fatal("it was built")
			}
		}
		p.builder.buildErr, p.builder.revision = nil, "r2" // which mends it
		p.want(t, "latest", "r2", false)
		if want := []bool{false, true, true}; !slices.Equal(p.builder.doubting, want) {
			t.Errorf("the answers were doubted %v, want %v", p.builder.doubting, want)
		}
		p.builder.doubting = nil
		p.builder.buildErr = status.Errorf(status.Unavailable, "the remote is down")
		p.builder.revision = "r3"
		p.want(t, "latest", "r2", true)
		if slices.Contains(p.builder.doubting, true) {
			t.Error("an answer is doubted although nothing was wrong with it")
		}
	})
}

func TestRefreshHooks(t *testing.T) {
	const secret, body = "0123456789abcdef", `{"ref": "refs/heads/main"}`
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	signature := "sha256=" + hex.EncodeToString(mac.Sum(nil))
	for _, test := range []struct {
		name, method string
		header       http.Header
		token        string // what the file has
		status       int
	}{
		{"GitHub", "POST", http.Header{"X-Hub-Signature-256": {signature}}, secret + "\n", 202},
		{"GitLab", "POST", http.Header{"X-Gitlab-Token": {secret}}, secret, 202},
		{"anybody", "POST", http.Header{"Authorization": {"Bearer " + secret}}, secret, 202},
		{"none", "POST", nil, secret, 401},
		{"another", "POST", http.Header{"X-Gitlab-Token": {"0123456789abcdeF"}}, secret, 401},
		{"begins so", "POST", http.Header{"Authorization": {"Bearer " + secret[:8]}}, secret, 401},
		{"empty", "POST", http.Header{"Authorization": {"Bearer "}}, secret, 401},
		{"a password", "POST", http.Header{"Authorization": {"Basic " + secret}}, secret, 401},
		{"signature of another body", "POST", http.Header{
			"X-Hub-Signature-256": {"sha256=" + strings.Repeat("0", 64)},
		}, secret, 401},
		{"signature that is none", "POST", http.Header{"X-Hub-Signature-256": {"sha256=zz"}}, secret, 401},
		{"bad signature beside a good token", "POST", http.Header{
			"X-Hub-Signature-256": {"sha256=00"}, "X-Gitlab-Token": {secret},
		}, secret, 401},
		{"old signature alone", "POST", http.Header{"X-Hub-Signature": {signature}}, secret, 401},
		{"GET", "GET", http.Header{"X-Gitlab-Token": {secret}}, secret, 405},
		{"no file", "POST", http.Header{"X-Gitlab-Token": {secret}}, "", 503},
		{"short secret", "POST", http.Header{"X-Gitlab-Token": {"abc"}}, "abc", 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "token")
			if test.token != "" {
				if err := os.WriteFile(file, []byte(test.token), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := &Service{options: Options{RefreshTokenFile: file}, told: make(chan struct{}, 1)}
			w := httptest.NewRecorder()
			request := httptest.NewRequest(test.method, refreshPath, strings.NewReader(body))
			request.Header = test.header
			s.takeHook(w, request)
			if w.Code != test.status || (len(s.told) == 1) != (test.status == 202) {
				t.Errorf("status %d, want %d; told %d times: %s", w.Code, test.status, len(s.told), w.Body)
			}
			if strings.Contains(w.Body.String(), file) {
				t.Errorf("everybody is told %s", w.Body)
			}
		})
	}
}

// What one replica is told, the others hear; several at a time are one; and a replica that comes
// later looks once.
func TestNews(t *testing.T) {
	one := newPulling(t)
	registry, err := storage.NewRegistry(t.Context(), one.files)
	if err != nil {
		t.Fatal(err)
	}
	other := newPulling(t)
	if err := other.open(registry, one.files); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		replicas := []*pulling{one, other}
		for _, p := range replicas {
			p.told, p.lookUp = make(chan struct{}, 1), make(chan struct{}, 1)
			go p.hearNews(ctx)
		}
		heard := func(when string, times int32, most ...int32) {
			t.Helper()
			for i, p := range replicas {
				if got := p.builder.doubted.Swap(0); got != times && !slices.Contains(most, got) {
					t.Errorf("%s, replica %d looked %d times, want %d", when, i, got, times)
				}
				if len(p.lookUp) == 1 {
					<-p.lookUp
				} else if times > 0 {
					t.Errorf("%s, replica %d does not follow", when, i)
				}
			}
		}
		time.Sleep(3 * newsPoll)
		heard("without news", 0)
		for range 5 {
			select {
			case one.told <- struct{}{}:
			default:
			}
		}
		time.Sleep(2 * newsPoll)
		heard("told five times", 1, 2) // the first, and the rest
		time.Sleep(3 * newsPoll)
		heard("later", 0)
		if err := other.Refresh(ctx); err != nil { // as the command does
			t.Fatal(err)
		}
		time.Sleep(2 * newsPoll)
		heard("by the command", 1)
	})
}
