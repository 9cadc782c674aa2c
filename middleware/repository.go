package middleware

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"

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
	if !reads(ctx) {
		return r.service.adopting(r.Repository, manifests), nil
	}
	read, ok := readingOf(ctx)
	if !ok || read.reference == "" { // of blobs
		return manifests, nil
	}
	at, err := r.service.home(ctx, r.Repository)
	if err != nil {
		return nil, err
	}
	manifests = missedManifests{manifests, r.service.store, at}
	// Which form of an image is served, or whether any is, depends on what the client accepts.
	read.response.Header().Add("Vary", "Accept")
	from := imagestore.Reader{Name: at.Named().Name(), Manifests: manifests, Blobs: r.Repository.Blobs(ctx)}
	if strings.Contains(read.reference, ":") {
		if err := r.service.mayPull(ctx, digest.Digest(read.reference)); err != nil {
			return nil, r.service.explain(at, r.service.pullOf(ctx, read), err)
		}
		again := func(ctx context.Context, revision string) error { return r.buildAgain(ctx, at, read, revision) }
		return pinnedManifests{manifests, r.service.store, from, again, r.service.pulls}, nil
	}
	pull := r.service.pullOf(ctx, read)
	begun := time.Now()
	image, err := r.service.pullAt(ctx, at, pull.reference, pull.client)
	if errors.Is(err, errHold) && pull.redirects < maxRedirects {
		r.service.redirect(r.Named(), pull)
		r.answer = redirected
		return redirectedManifests{manifests}, nil
	}
	var made imagestore.Made
	if err == nil {
		made, err = r.service.serve(ctx, from, pull, image)
	}
	r.service.countPull(pull, image, err, time.Since(begun))
	if err != nil {
		return nil, r.service.explain(at, pull, err)
	}
	if image.Digest != "" && !image.Pushed {
		r.service.pulls.Note(image.repository, image.tag)
	}
	r.answer = made.Digest
	if made.Manifest != nil {
		return servedManifests{manifests, made}, nil
	}
	return manifests, nil
}

// buildAgain builds an image of a revision that somebody has pinned by its digest and that the storage
// does not have any more. The error is errHold if the client is sent round.
func (r *repository) buildAgain(ctx context.Context, at home, read reading, revision string) error {
	pull := r.service.pullOf(ctx, read)
	_, err := r.service.pull(ctx, at.Repository, revision, pull.client)
	if errors.Is(err, errHold) && pull.redirects < maxRedirects {
		r.service.redirect(r.Named(), pull)
		return errHold
	}
	if err == nil || status.Permanent(err) || errors.Is(err, errReadOnly) {
		return nil // it is unknown, then
	}
	return r.service.explain(at, pull, err)
}

// missedManifests are a repository's. Those that it lacks are noticed: if a built image should have
// one, it is built again. So is what they refer to: readers by another spelling may have it.
type missedManifests struct {
	distribution.ManifestService
	store *imagestore.Store
	at    home
}

// Get implements distribution.ManifestService.
func (m missedManifests) Get(
	ctx context.Context, dgst digest.Digest, options ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	manifest, err := m.ManifestService.Get(ctx, dgst, options...)
	if errors.As(err, new(distribution.ErrManifestUnknownRevision)) {
		m.store.Miss(m.at.Named().Name(), dgst)
	}
	if err == nil && m.at.asked != nil {
		m.store.VouchFor(m.at.Named().Name(), dgst, manifest)
	}
	return manifest, err
}

// Blobs has the layers of the repository's images, also those that are not linked yet.
func (r *repository) Blobs(ctx context.Context) distribution.BlobStore {
	if !reads(ctx) {
		return mountingBlobs{r.service.store.Blobs(ctx, r.Repository), r.service}
	}
	if _, other := r.service.canonicalOf(r.Named()); other {
		return r.Repository.Blobs(ctx) // these are linked where they are
	}
	return r.service.store.Blobs(ctx, r.Repository)
}

// Tags answers with the manifest that Manifests has chosen, and lists what can be asked for.
func (r *repository) Tags(ctx context.Context) distribution.TagService {
	return servedTags{r.Repository.Tags(ctx), r}
}

// A pull is a request for a manifest by tag.
type pull struct {
	reading   // whose reference is the tag
	client    client
	accepts   accepts
	redirects int // before this request
}

// errForeign keeps a web page of another site from having images built through the browser of
// somebody who looks at it.
var errForeign = status.Errorf(status.Denied,
	"a web page of another site asks for this, and nothing is built for such: pull the image with a container tool")

// A reading is a request that changes nothing.
type reading struct {
	request   *http.Request
	response  http.ResponseWriter
	name      string // of the repository, as it was asked for
	reference string // of a manifest: a tag or a digest; empty for all else
}

// readingOf reads the request that the registry's context carries. It returns false for anything
// but GET and HEAD.
func readingOf(ctx context.Context) (reading, bool) {
	request, ok := readRequest(ctx)
	if !ok {
		return reading{}, false
	}
	response, ok := ctx.Value("http.response").(http.ResponseWriter)
	name, _ := ctx.Value("vars.name").(string)
	reference, _ := ctx.Value("vars.reference").(string)
	return reading{request, response, name, reference}, ok
}

// reads tells whether a request changes nothing.
func reads(ctx context.Context) bool {
	_, ok := readRequest(ctx)
	return ok
}

// readRequest returns false for anything but GET and HEAD.
func readRequest(ctx context.Context) (*http.Request, bool) {
	request, ok := ctx.Value("http.request").(*http.Request)
	return request, ok && (request.Method == http.MethodGet || request.Method == http.MethodHead)
}

// pullOf tells what a reading by tag asks for, and who asks.
func (s *Service) pullOf(ctx context.Context, read reading) pull {
	return pull{
		reading:   read,
		client:    s.clientOf(ctx, read),
		accepts:   acceptsOf(read.request.Header),
		redirects: redirectsOf(read.request.URL),
	}
}

// clientOf tells who asks, and whether images are built for them.
func (s *Service) clientOf(ctx context.Context, read reading) client {
	user, _ := ctx.Value("auth.user.name").(string)
	client := client{name: user, hold: s.options.Build.Hold}
	if user == "" {
		client.name = clientOf(read.request, s.proxies)
	}
	if client.barred = s.barred(user, read.request, read.response, read.name); isForeign(read.request) {
		client.barred = errForeign
	}
	return client
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
