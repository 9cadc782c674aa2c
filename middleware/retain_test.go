package middleware

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/retention"
)

// get asks for a manifest of the repository git as a client does.
func (p *pulling) get(t *testing.T, reference string) {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	ctx := requestContext{t.Context(), map[string]any{
		"http.request": request, "http.response": http.ResponseWriter(httptest.NewRecorder()),
		"vars.reference": reference, "vars.name": "git",
	}}
	repo := &repository{Repository: p.repo, service: p.Service}
	manifests, err := repo.Manifests(ctx)
	if err == nil && strings.Contains(reference, ":") {
		_, err = manifests.Get(ctx, digest.Digest(reference))
	}
	if err != nil {
		t.Fatalf("%s: %v", reference, err)
	}
}

// recorded are the references whose pulls are recorded.
func (p *pulling) recorded(t *testing.T) (references []string) {
	t.Helper()
	p.pulls.Close(t.Context())
	directories, err := p.files.List(t.Context(), "/nix/v1/pulls")
	if err != nil {
		t.Fatal(err)
	}
	for _, directory := range directories {
		names, err := p.files.List(t.Context(), directory)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			content, err := p.files.GetContent(t.Context(), path.Clean(name))
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(content), `"reference":"`)
			reference, _, _ := strings.Cut(rest, `"`)
			references = append(references, reference)
		}
	}
	slices.Sort(references)
	return references
}

// Pulls of built images are recorded, by tags and by digests. Pulls of pushed ones are not.
func TestPullsAreRecorded(t *testing.T) {
	p := newPulling(t)
	var err error
	if p.pulls, err = retention.NewPulls(p.store.State(), p.store.Built); err != nil {
		t.Fatal(err)
	}
	p.get(t, "latest")
	built, err := p.store.LookUp(t.Context(), p.repo, "latest")
	if err != nil {
		t.Fatal(err)
	}
	p.get(t, "latest")
	p.get(t, built.Digest.String())

	pushed := manifestOf("pushed")
	manifests, err := p.repo.Manifests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.repo.Blobs(t.Context()).Put(t.Context(), v1.MediaTypeImageConfig, pushed.Config); err != nil {
		t.Fatal(err)
	}
	parsed, desc, err := distribution.UnmarshalManifest(pushed.MediaType, pushed.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifests.Put(t.Context(), parsed); err != nil {
		t.Fatal(err)
	}
	if err := p.repo.Tags(t.Context()).Tag(t.Context(), "own", desc); err != nil {
		t.Fatal(err)
	}
	p.get(t, "own")
	p.get(t, pushed.Digest.String())

	want := []string{"latest", built.Digest.String()}
	if got := p.recorded(t); !slices.Equal(got, want) {
		t.Errorf("there are recorded pulls of %q, want %q", got, want)
	}
}

// What the option prebuild names is not removed, as it would be built again at once.
func TestPrebuiltStays(t *testing.T) {
	options := defaults()
	options.Prebuild = []string{"shell/git", "htop:staging", "tree/less"}
	s := &Service{options: options}
	for _, test := range []struct {
		name, tag string
		want      bool
	}{
		{"shell/git", "latest", true}, {"shell/git", "r1", false}, {"htop", "staging", true}, {"htop", "latest", false},
		{"git", "latest", false}, {"less/tree", "latest", true}, {"tree/less", "latest", false},
	} {
		if got := s.holds(test.name, test.tag); got != test.want {
			t.Errorf("%s:%s is held: %t", test.name, test.tag, got)
		}
	}
}

// Work in the background is over when it was ended, and none needs no end.
func TestBackgroundEnds(t *testing.T) {
	var none, work background
	none.end(t.Context())
	over := false
	work.start(t.Context(), func(ctx context.Context) {
		<-ctx.Done()
		over = true
	})
	work.end(t.Context())
	if !over {
		t.Error("the work goes on")
	}
}
