package middleware

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// asking is the context of a request for a list of tags.
func asking(t *testing.T, name string, header ...string) context.Context {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/v2/"+name+"/tags/list", nil)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	return requestContext{t.Context(), map[string]any{
		"http.request": request, "http.response": http.ResponseWriter(httptest.NewRecorder()), "vars.name": name,
	}}
}

// list asks for tags of a repository, as upstream does.
func (p *pulling) list(ctx context.Context, t *testing.T, name string, limit int, last string) ([]string, error) {
	t.Helper()
	served := &repository{Repository: p.repository(t, name), service: p.Service}
	return served.Tags(ctx).List(ctx, limit, last)
}

// wantTags checks the list of all tags of git, without one that a build has added.
func (p *pulling) wantTags(t *testing.T, want ...string) {
	t.Helper()
	tags, err := p.list(asking(t, "git"), t, "git", -1, "")
	if !errors.Is(err, io.EOF) || !slices.Equal(tags, want) {
		t.Errorf("the tags are %q, %v; want %q", tags, err, want)
	}
}

func TestTags(t *testing.T) {
	p := newPulling(t)
	p.tags = append(p.tags, "main")
	p.builder.offers = []string{"main", "side"}
	p.wantTags(t, "latest", "main", "side")
	p.asked(t, 0, 0)
	if _, err := p.pull(t, "main"); err != nil {
		t.Fatal(err)
	}
	p.wantTags(t, "latest", "main", "r1", "side")
	if _, err := p.pull(t, "latest"); err != nil {
		t.Fatal(err)
	}
	p.push(t, "own")
	p.wantTags(t, "latest", "main", "own", "r1", "side")
}

// A repository of pushed images has its own tags alone, also where these look like the operator's.
func TestTagsOfPushed(t *testing.T) {
	p := newPulling(t)
	p.builder.offers = []string{"main"}
	p.push(t, "v1")
	p.wantTags(t, "v1")
	p.push(t, "latest")
	p.wantTags(t, "latest", "v1")
}

func TestTagsInPages(t *testing.T) {
	p := newPulling(t)
	p.builder.offers = []string{"b", "main", "side"}
	for _, test := range []struct {
		limit int
		last  string
		want  []string
		end   bool
	}{
		{limit: 3, want: []string{"b", "latest", "main"}},
		{limit: 3, last: "main", want: []string{"side"}, end: true},
		{limit: 1, last: "a", want: []string{"b"}},
		{limit: 1, last: "main", want: []string{"side"}, end: true},
		{limit: 2, last: "c", want: []string{"latest", "main"}},
		{limit: 4, want: []string{"b", "latest", "main", "side"}, end: true},
		{limit: 1, last: "zz", end: true},
		{limit: -1, last: "m", want: []string{"main", "side"}, end: true},
	} {
		got, err := p.list(asking(t, "git"), t, "git", test.limit, test.last)
		if !slices.Equal(got, test.want) || errors.Is(err, io.EOF) != test.end || !test.end && err != nil {
			t.Errorf("%d after %q: %q, %v; want %q", test.limit, test.last, got, err, test.want)
		}
	}
}

// What can't be pulled has no tags.
func TestNoTags(t *testing.T) {
	p := newPulling(t)
	p.options.Names = NamesOptions{Prefix: "nix", MaxPackages: 2}
	for _, test := range []struct {
		name, repository string
		change           func()
		header           []string
		text             string // of an answer of our own
	}{
		{name: "outside of the prefix", repository: "git"},
		{name: "too many packages", repository: "nix/a/b/c", text: "3 packages"},
		{name: "no package", repository: "nix/arm64", text: "no package"},
		{
			name: "one that there is not", repository: "nix/gti", text: "did you mean git",
			change: func() { p.builder.refusal = status.Errorf(status.NotFound, "no gti (did you mean git?)") },
		},
		{
			name: "denied", repository: "nix/git", text: "policy",
			change: func() { p.builder.refusal = status.Errorf(status.Denied, "git is denied by the policy") },
		},
		{name: "a page of another site", repository: "nix/git", header: []string{"Origin", "https://evil.example"}},
		{name: "in read-only mode", repository: "nix/git", change: func() { p.readOnly = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.builder.refusal, p.readOnly = nil, false
			if test.change != nil {
				test.change()
			}
			tags, err := p.list(asking(t, test.repository, test.header...), t, test.repository, -1, "")
			var own errcode.Error
			isOwn := errors.As(err, &own)
			if len(tags) > 0 || isOwn != (test.text != "") ||
				!isOwn && !errors.As(err, new(distribution.ErrRepositoryUnknown)) {
				t.Errorf("the tags are %q, the error is %#v", tags, err)
			}
			if isOwn && (own.Code != errcode.ErrorCodeNameUnknown || !strings.Contains(own.Message, test.text)) {
				t.Errorf("the error is %v: %s, want %q", own.Code, own.Message, test.text)
			}
		})
	}
}

// Whoever looks for signatures of an image gets an answer without a look at the package set, as
// often as they like, whoever they are.
func TestTagsOfSignatures(t *testing.T) {
	p := newPulling(t)
	p.options.Build.NewPerHour = 1
	for range 3 {
		for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
			tag := "sha256-" + strings.Repeat("0a", 32) + suffix
			got, err := p.Service.pull(t.Context(), p.repo, tag, client{name: "192.0.2.1", barred: errForeign})
			if err != nil || got.Digest != "" {
				t.Errorf("%s is %+v, %v", tag, got, err)
			}
		}
	}
	p.asked(t, 0, 0)
	tag := "sha256-" + strings.Repeat("0a", 32) + ".sig"
	pushed := p.push(t, tag)
	if got, err := p.pull(t, tag); err != nil || got.Digest != pushed || !got.Pushed {
		t.Errorf("a signature that was pushed is %+v, %v", got, err)
	}
}
