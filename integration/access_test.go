package integration

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A listener to a registry's notifications hears of a built image as of a pushed one.
func TestNotifications(t *testing.T) {
	events := newListener(t)
	r := StartRegistry(t, events.setting(t))
	// The second image shares layers with the first.
	for _, name := range []string{"hello", "hello/tree"} {
		image := r.Pull(t, name)
		want := []event{{"push", name, "latest", image.Digest}, {"pull", name, "latest", image.Digest}}
		Eventually(t, commandTime, "the events of the manifest of "+name, func() bool { return events.has(want...) })
		blobs := []v1.Descriptor{image.Config}
		for _, blob := range append(blobs, image.Layers...) {
			Eventually(t, commandTime, "an event of blob "+blob.Digest.String(), func() bool {
				return events.has(event{"push", name, "", blob.Digest}) ||
					events.has(event{"mount", name, "", blob.Digest})
			})
		}
	}
	if !events.hasAction("mount") {
		t.Error("no blob was mounted")
	}
}

// An event is the subject of a notification.
type event struct {
	action, repository, tag string
	digest                  digest.Digest
}

// A listener hears what a registry notifies. It is safe for concurrent use.
type listener struct {
	server *httptest.Server

	mu   sync.Mutex
	seen map[event]bool
}

// setting has a registry notify the listener.
func (l *listener) setting(t *testing.T) string {
	t.Helper()
	return "notifications=" + mustJSON(t, map[string]any{"endpoints": []any{map[string]any{
		"name": "test", "url": l.server.URL, "timeout": "5s", "threshold": 3, "backoff": "100ms",
	}}})
}

func newListener(t *testing.T) *listener {
	l := &listener{seen: make(map[event]bool)}
	l.server = httptest.NewServer(l)
	t.Cleanup(l.server.Close)
	return l
}

func (l *listener) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	var envelope struct {
		Events []struct {
			Action string
			Target struct {
				Digest          digest.Digest
				Repository, Tag string
			}
		}
	}
	if err := json.NewDecoder(request.Body).Decode(&envelope); err != nil {
		return // the test waits in vain
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range envelope.Events {
		l.seen[event{e.Action, e.Target.Repository, e.Target.Tag, e.Target.Digest}] = true
	}
}

func (l *listener) has(events ...event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if !l.seen[e] {
			return false
		}
	}
	return true
}

func (l *listener) hasAction(action string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := range l.seen {
		if e.action == action {
			return true
		}
	}
	return false
}

// A client without a password gets no image, and has none built.
func TestPassword(t *testing.T) {
	Needs(t, "skopeo")
	passwords := filepath.Join(Dir(t), "htpasswd")
	Write(t, passwords, "ada:$2a$04$1OgD4Lcq.FvBUR2VfstgKuYbRFxG5KmMh7tQez5PkpPOUlEJi2OYu\n") // of "lovelace"
	r := StartRegistry(
		t,
		"auth="+mustJSON(t, map[string]any{"htpasswd": map[string]any{"realm": "test", "path": passwords}}),
	)
	ref := "docker://" + r.Ref("hello")
	for _, test := range []struct {
		name string
		args []string
	}{
		{"no password", []string{"inspect", "--tls-verify=false", "--no-creds", ref}},
		{"a wrong password", []string{"inspect", "--tls-verify=false", "--creds", "ada:byron", ref}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if stdout, stderr, err := TryExec(t.Context(), "skopeo", test.args...); err == nil ||
				!strings.Contains(stderr, "authentication required") && !strings.Contains(stderr, "unauthorized") {
				t.Errorf("skopeo: %v, %s%s", err, stdout, stderr)
			}
		})
	}
	status, _, body, err := r.Get(t.Context(), "/v2/hello/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusUnauthorized {
		t.Errorf("the answer is %d %s, %v", status, body, err)
	}
	for _, path := range []string{"/livez", "/readyz"} {
		status, _, body, err := r.Get(t.Context(), path, "*/*")
		if err != nil || status != http.StatusOK || strings.Contains(r.Log(), path) {
			t.Errorf("%s: %d %s, %v", path, status, body, err)
		}
	}
	if strings.Contains(r.Log(), logBuilt) {
		t.Error("an image was built for nobody")
	}
	Exec(
		t, "skopeo", "copy", "--src-tls-verify=false", "--src-creds", "ada:lovelace", ref,
		"oci:"+filepath.Join(Dir(t), "image"),
	)
	if !strings.Contains(r.Log(), logBuilt) {
		t.Error("the log does not tell of the image that was built")
	}
}
