package integration

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// tags asks for the tags of an image, and returns the link to the next page, too.
func (r *Registry) tags(t *testing.T, path string) (tags []string, next string) {
	t.Helper()
	status, header, body, err := r.Get(t.Context(), path)
	var list struct {
		Tags []string `json:"tags"`
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &list) != nil {
		t.Fatalf("%s is answered with %d %s, %v", path, status, body, err)
	}
	next, _, _ = strings.Cut(strings.TrimPrefix(header.Get("Link"), "<"), ">")
	return list.Tags, next
}

// Whoever lists the tags of an image that nobody has pulled yet learns what can be asked for. That
// costs no evaluation, and goes on when there are tags.
func TestTagsBeforeAPull(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo", "crane")
	set := newRepository(t)
	commit := set.commit("one")
	for _, branch := range []string{"side", "feature/x"} {
		set.git("branch", branch)
	}
	set.git("tag", "v1")
	r := StartRegistry(t, `nix.packages={"git": {"url": "file://`+set.dir+`", "ref": "main"}}`)
	r.AwaitLog(logPackages, 1)
	programs := r.Programs()
	want := []string{"latest", "main", "side", "v1"}
	if got, next := r.tags(t, "/v2/quick/tags/list"); !slices.Equal(got, want) || next != "" {
		t.Errorf("the tags are %q, and then %q; want %q", got, next, want)
	}
	var paged []string
	for next := "/v2/quick/tags/list?n=3"; next != ""; {
		var page []string
		page, next = r.tags(t, next)
		paged = append(paged, page...)
	}
	if !slices.Equal(paged, want) {
		t.Errorf("in pages, the tags are %q, want %q", paged, want)
	}
	if got := strings.Fields(Exec(t, "crane", "ls", r.Ref("quick"))); !slices.Equal(got, want) {
		t.Errorf("crane lists %q, want %q", got, want)
	}
	for _, program := range r.Programs()[len(programs):] {
		if program != "git" {
			t.Errorf("%s was started for that", program)
		}
	}
	// One of them can be pulled. The others stay.
	r.PullTag(t, "quick", "side")
	r.Pull(t, "quick")
	want = append(want, commit)
	slices.Sort(want)
	if got, _ := r.tags(t, "/v2/quick/tags/list"); !slices.Equal(got, want) {
		t.Errorf("after pulls, the tags are %q, want %q", got, want)
	}
	got := Exec(t, "skopeo", "list-tags", "--tls-verify=false", "docker://"+r.Ref("quick"))
	if !strings.Contains(got, "side") {
		t.Errorf("skopeo lists %s", got)
	}
}

// A name that is known to be wrong has no tags, nor has one that was pushed others than its own.
func TestTagsOfOthers(t *testing.T) {
	t.Parallel()
	r := StartRegistry(
		t, "nix.packages.path="+FreshPackages(t), "nix.names.maxpackages=3", `nix.names.deny=["sleeps.s1"]`,
	)
	push(t, r.Ref("team/app:v1"), "app")
	if got, _ := r.tags(t, "/v2/team/app/tags/list"); !slices.Equal(got, []string{"v1"}) {
		t.Errorf("the tags of a pushed image are %q", got)
	}
	for name, want := range map[string]int{"quickk": http.StatusNotFound, "sleeps.s1": http.StatusForbidden} {
		if status := ask(t, r, name); status != want {
			t.Fatalf("%s is answered with %d, want %d", name, status, want)
		}
	}
	for path, text := range map[string]string{
		"/v2/quickk/tags/list": "did you mean quick", "/v2/a/b/c/d/tags/list": "4 packages",
		"/v2/arm64/tags/list": "no package", "/v2/sleeps.s1/tags/list": "policy",
	} {
		status, _, body, err := r.Get(t.Context(), path)
		if err != nil || status != http.StatusNotFound || !strings.Contains(string(body), "NAME_UNKNOWN") ||
			!strings.Contains(string(body), text) {
			t.Errorf("%s is answered with %d %s, %v; want 404 and %q", path, status, body, err, text)
		}
	}
}

// A remote that keeps silent does not keep who asks for tags, nor who looks for signatures.
func TestTagsOfASilentRemote(t *testing.T) {
	t.Parallel()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		<-request.Context().Done()
	}))
	t.Cleanup(func() {
		silent.CloseClientConnections()
		silent.Close()
	})
	r := StartRegistry(t, `nix.packages={"git": {"url": "`+silent.URL+`/set.git", "ref": "main"}}`)
	if got, _ := r.tags(t, "/v2/quick/tags/list"); !slices.Equal(got, []string{"latest", "main"}) {
		t.Errorf("the tags are %q", got)
	}
	for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
		path := "/v2/quick/manifests/sha256-" + strings.Repeat("0a", 32) + suffix
		if status, _, body, err := r.Get(t.Context(), path); err != nil || status != http.StatusNotFound {
			t.Errorf("%s is answered with %d %s, %v", path, status, body, err)
		}
	}
}
