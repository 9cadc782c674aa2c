package middleware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/middleware/retention"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// defaultPlatform is what clients get that take neither an index nor a list. It is upstream's, too.
const defaultPlatform = "linux/amd64"

// maxAccepted is how many media types of a request are read. Clients name up to ten.
const maxAccepted = 100

// accepts are the forms of an image that a client names.
type accepts struct {
	index, manifest bool // OCI's
	list, schema2   bool // Docker's: manifest lists, and manifests
}

// acceptsOf reads a request's header, as the registry does for pushed images: what can't be parsed
// is passed over. Weights count as far as that 0 means never. A wildcard names nothing: whoever
// takes anything gets what those get who say nothing.
func acceptsOf(header http.Header) accepts {
	var a accepts
	for mediaType := range accepted(header) {
		switch mediaType {
		case v1.MediaTypeImageIndex:
			a.index = true
		case v1.MediaTypeImageManifest:
			a.manifest = true
		case image.MediaTypeDockerList:
			a.list = true
		case image.MediaTypeDockerManifest:
			a.schema2 = true
		}
	}
	return a
}

// accepted goes through the media types and ranges in a request's header.
func accepted(header http.Header) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		read := 0
		for _, line := range header.Values("Accept") {
			for entry := range strings.SplitSeq(line, ",") {
				if read++; read > maxAccepted {
					return
				}
				mediaType, parameters, err := mime.ParseMediaType(entry)
				if err == nil && !isZero(parameters["q"]) && !yield(mediaType) {
					return
				}
			}
		}
	}
}

// isZero tells whether a weight is 0, 0. or 0.000.
func isZero(weight string) bool { return weight != "" && strings.Trim(weight, "0.") == "" }

// wantsManifest tells whether a request names a form of an image, also one of long ago, and no
// page. Some container tools take anything beside that.
func wantsManifest(header http.Header) bool {
	form := false
	for mediaType := range accepted(header) {
		if mediaType == "text/html" {
			return false
		}
		form = form || strings.HasPrefix(mediaType, "application/vnd.oci.image.") ||
			strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.")
	}
	return form
}

// form chooses what a client gets of an image that is stored as an index or a manifest, empty for
// the stored one. Of an index it is asked only for clients that take an index or a list.
//
// A client that names nothing of this gets Docker's manifest: the registry, too, serves pushed
// Docker images to everybody, and OCI's only to those who ask for them by name.
func (a accepts) form(index bool) imagestore.Form {
	switch {
	case index && a.index, !index && a.manifest:
		return ""
	case index:
		return imagestore.List
	case a.schema2 || !a.index && !a.list:
		return imagestore.Docker
	case a.index:
		return imagestore.Index
	}
	return imagestore.List
}

// serve chooses the form of an image that the client takes, and warns of what is not as the client
// would expect. It returns the manifest to serve; that has only a digest if it is stored,
// and none for an empty answer.
func (s *Service) serve(
	ctx context.Context, from imagestore.Reader, p pull, built answer,
) (imagestore.Made, error) {
	of, isIndex := built.Digest, built.Index
	if of == "" || built.Pushed {
		return imagestore.Made{Digest: of}, nil
	}
	warn := func(text string) { p.response.Header().Add("Warning", fmt.Sprintf("299 - %q", text)) }
	if isIndex && !p.accepts.index && !p.accepts.list {
		var platforms []string
		var err error
		if of, platforms, err = defaultOf(ctx, from.Manifests, of); err != nil {
			return imagestore.Made{}, err
		}
		if of == "" {
			return imagestore.Made{}, status.Errorf(
				status.NotFound,
				"%s:%s is an image for %s alone, and who accepts neither %s nor %s gets %s: "+
					"accept one of them, or choose the platform by its name, as in arm64/NAME",
				p.name, p.reference, strings.Join(platforms, ", "),
				v1.MediaTypeImageIndex, image.MediaTypeDockerList, defaultPlatform,
			)
		}
		if isIndex = false; len(platforms) > 1 {
			warn("this is the image for " + defaultPlatform + ", of those for " + strings.Join(platforms, ", ") +
				": the client accepts neither an index nor a manifest list")
		}
	}
	for _, platform := range built.Missing {
		warn("there is no image for " + platform)
	}
	if built.stale {
		warn("there may be a newer one, which could not be looked up or is not built yet")
	}
	return s.formOf(ctx, from, p, of, isIndex)
}

// formOf returns a stored manifest in the form that the client takes. The error is of kind NotFound
// if there is no such form.
func (s *Service) formOf(
	ctx context.Context, from imagestore.Reader, p pull, of digest.Digest, isIndex bool,
) (imagestore.Made, error) {
	form, byTag := p.accepts.form(isIndex), distribution.WithTag(p.reference)
	if form == "" {
		return imagestore.Made{Digest: of}, nil
	}
	made, err := s.store.Make(ctx, from, of, form, byTag)
	if !errors.Is(err, image.ErrNoDockerForm) {
		return made, err
	}
	needs := v1.MediaTypeImageIndex
	if !isIndex {
		if p.accepts.index {
			return s.store.Make(ctx, from, of, imagestore.Index, byTag)
		}
		needs = v1.MediaTypeImageManifest
	}
	return imagestore.Made{}, status.Errorf(
		status.NotFound,
		"the layers of %s:%s are compressed with zstd, which only OCI's image format has: "+
			"accept %s, as Docker 23 and later do, or have the registry's operator set image.compression to gzip",
		p.name, p.reference, needs,
	)
}

// defaultOf returns the manifest for defaultPlatform in an index, empty if there is none, and which
// platforms there are.
func defaultOf(
	ctx context.Context, manifests distribution.ManifestService, index digest.Digest,
) (manifest digest.Digest, platforms []string, err error) {
	stored, err := manifests.Get(ctx, index)
	if err != nil {
		return "", nil, fmt.Errorf("reading index %s: %w", index, err)
	}
	for _, child := range stored.References() {
		if child.Platform == nil {
			continue
		}
		platform := child.Platform.OS + "/" + child.Platform.Architecture
		if child.Platform.Variant != "" {
			platform += "/" + child.Platform.Variant
		}
		if platforms = append(platforms, platform); platform == defaultPlatform && manifest == "" {
			manifest = child.Digest
		}
	}
	return manifest, platforms, nil
}

// servedManifests are a repository's, with the form of an image that a pull by tag gets.
type servedManifests struct {
	distribution.ManifestService
	made imagestore.Made
}

// Get implements distribution.ManifestService.
func (m servedManifests) Get(
	ctx context.Context, dgst digest.Digest, options ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	if dgst == m.made.Digest {
		return m.made.Manifest, nil
	}
	return m.ManifestService.Get(ctx, dgst, options...)
}

// pinnedManifests are a repository's, with the forms of images that clients learned of earlier, and
// with built images that the storage does not have any more. Again builds one of a revision.
type pinnedManifests struct {
	distribution.ManifestService
	store *imagestore.Store
	from  imagestore.Reader
	again func(ctx context.Context, revision string) error
	pulls *retention.Pulls
}

// Get implements distribution.ManifestService.
func (m pinnedManifests) Get(
	ctx context.Context, dgst digest.Digest, options ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	manifest, unknown, err := m.get(ctx, dgst, options...)
	if unknown == nil || err != nil {
		if err == nil {
			m.pulls.Note(m.from.Name, dgst.String())
		}
		return manifest, err
	}
	revision, ok, err := m.store.RevisionOf(ctx, m.from.Name, dgst)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, unknown
	}
	if err := m.again(ctx, revision); errors.Is(err, errHold) {
		return noManifest{}, nil
	} else if err != nil {
		return nil, err
	}
	manifest, unknown, err = m.get(ctx, dgst, options...)
	return manifest, cmp.Or(err, unknown)
}

// get returns a manifest that is stored, or a form of one. Unknown is upstream's error if there is
// neither.
func (m pinnedManifests) get(
	ctx context.Context, dgst digest.Digest, options ...distribution.ManifestServiceOption,
) (manifest distribution.Manifest, unknown, err error) {
	manifest, err = m.ManifestService.Get(ctx, dgst, options...)
	if !errors.As(err, new(distribution.ErrManifestUnknownRevision)) {
		return manifest, nil, err
	}
	made, ok, faulty := m.store.Again(ctx, m.from, dgst)
	if faulty != nil {
		return nil, nil, faulty
	}
	if !ok {
		return nil, err, nil
	}
	return made.Manifest, nil, nil
}
