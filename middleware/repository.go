package middleware

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/manifest/schema2"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// A repository is the registry's own for a single request. The registry asks it first for its
// manifests, which is when an image is built, and then for the digest of the tag.
type repository struct {
	distribution.Repository
	service *Service
	answer  digest.Digest // the manifest to serve in place of the tag's, or empty
}

// Manifests builds the image that a pull asks for, if it is not there and can be built.
func (r *repository) Manifests(
	ctx context.Context, options ...distribution.ManifestServiceOption,
) (distribution.ManifestService, error) {
	manifests, err := r.Repository.Manifests(ctx, options...)
	if err != nil {
		return nil, err
	}
	if r.service.manifests != nil {
		manifests = cachedManifests{manifests, r.service.manifests}
	}
	pull, ok := r.service.pullOf(ctx)
	if !ok {
		return manifests, nil
	}
	image, err := r.service.pull(ctx, r.Repository, pull.tag, pull.client)
	if err == nil {
		r.answer, err = r.service.serve(ctx, r.Repository, pull, image)
	}
	if err != nil {
		return nil, r.service.explain(r.Named().Name(), pull, err)
	}
	return manifests, nil
}

// Blobs has the layers of the repository's images, also those that are not linked yet.
func (r *repository) Blobs(ctx context.Context) distribution.BlobStore {
	return r.service.store.Blobs(ctx, r.Repository)
}

// Tags answers with the manifest that Manifests has chosen.
func (r *repository) Tags(ctx context.Context) distribution.TagService {
	tags := r.Repository.Tags(ctx)
	if r.answer == "" {
		return tags
	}
	return answeringTags{TagService: tags, answer: r.answer}
}

type answeringTags struct {
	distribution.TagService
	answer digest.Digest
}

func (t answeringTags) Get(context.Context, string) (v1.Descriptor, error) {
	return v1.Descriptor{Digest: t.answer}, nil
}

const (
	// redirectsParameter counts, in the query, how often a client was redirected to the same URL.
	// Each redirect ends a hold.
	redirectsParameter = "hold"
	// maxRedirects is one less than the redirects that Go's HTTP client follows, and with it most
	// container tools.
	maxRedirects = 9
)

// A pull is a request for a manifest by tag.
type pull struct {
	tag       string
	client    client
	accepts   accepts
	redirects int         // before this request
	header    http.Header // of the response
}

// errForeign keeps a web page of another site from having images built through the browser of
// somebody who looks at it.
var errForeign = status.Errorf(status.Denied,
	"a web page of another site asks for this, and nothing is built for such: pull the image with a container tool")

// pullOf reads the request that the registry's context carries. It returns false for anything but a
// pull by tag.
func (s *Service) pullOf(ctx context.Context) (pull, bool) {
	request, ok := ctx.Value("http.request").(*http.Request)
	if !ok || request.Method != http.MethodGet && request.Method != http.MethodHead {
		return pull{}, false
	}
	response, ok := ctx.Value("http.response").(http.ResponseWriter)
	if !ok {
		return pull{}, false
	}
	tag, _ := ctx.Value("vars.reference").(string)
	if tag == "" || strings.Contains(tag, ":") {
		return pull{}, false // tags/list, blobs; a digest
	}
	user, _ := ctx.Value("auth.user.name").(string)
	client := client{name: user, hold: s.options.Build.Hold}
	if user == "" {
		client.name = clientOf(request, s.proxies)
	}
	name, _ := ctx.Value("vars.name").(string)
	if client.barred = s.barred(user, request, response, name); isForeign(request) {
		client.barred = errForeign
	}
	return pull{
		tag:       tag,
		client:    client,
		accepts:   acceptsOf(request.Header),
		redirects: redirectsOf(request.URL),
		header:    response.Header(),
	}, true
}

// isForeign tells whether a browser asks on behalf of a page of another site. Browsers say so with
// Sec-Fetch-Site in requests to https and to this machine. In others they name the origin of the
// page where the page could read the answer. Nobody else sends these headers.
func isForeign(request *http.Request) bool {
	switch request.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none": // the registry's own page; somebody who typed the address
		return false
	case "":
	default:
		return true
	}
	origin := request.Header.Get("Origin")
	if origin == "" {
		return false
	}
	page, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(page.Host, request.Host)
}

func redirectsOf(asked *url.URL) int {
	if asked.RawQuery == "" { // as nearly always
		return 0
	}
	redirects, err := strconv.Atoi(asked.Query().Get(redirectsParameter))
	if err != nil || redirects < 0 {
		return 0
	}
	return redirects
}

// accepts are the forms of an image that a client takes.
type accepts struct{ index, manifest, docker bool }

// acceptsOf reads a request's header. A client that says nothing, or takes anything, gets Docker's
// form: the registry itself, too, serves OCI's only to those who ask for it by name.
func acceptsOf(header http.Header) accepts {
	var a accepts
	said := false
	for _, line := range header.Values("Accept") {
		for entry := range strings.SplitSeq(line, ",") {
			mediaType, _, _ := strings.Cut(entry, ";")
			mediaType = strings.ToLower(strings.TrimSpace(mediaType))
			said = said || mediaType != ""
			switch mediaType {
			case v1.MediaTypeImageIndex:
				a.index = true
			case v1.MediaTypeImageManifest:
				a.manifest = true
			case schema2.MediaTypeManifest, "*/*":
				a.docker = true
			}
		}
	}
	a.docker = a.docker || !said
	return a
}

// serve chooses the form of an image that the client takes, and sets headers that say what the
// image was built from. It returns the manifest to serve, empty for an empty answer.
func (s *Service) serve(
	ctx context.Context, repo distribution.Repository, p pull, image answer,
) (manifest digest.Digest, err error) {
	if image.Digest == "" || image.Pushed {
		return image.Digest, nil
	}
	manifest = image.Digest
	if image.Index && !p.accepts.index {
		if manifest, err = imagestore.FirstOf(ctx, repo, manifest); err != nil {
			return "", err
		}
	}
	if p.accepts.docker && !p.accepts.manifest && (!image.Index || !p.accepts.index) {
		if manifest, err = s.store.DockerForm(ctx, repo, manifest); err != nil {
			return "", err
		}
	}
	warn := func(text string) { p.header.Add("Warning", fmt.Sprintf("299 - %q", text)) }
	warn("built by Nix " + image.Nix + " from " + image.Source + " at " + image.Revision)
	for _, platform := range image.Missing {
		warn("there is no image for " + platform)
	}
	if image.stale {
		warn("there may be a newer one, which could not be looked up or is not built yet")
	}
	return manifest, nil
}
