package imagestore

import (
	"context"
	"errors"
	"fmt"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// A Form is what clients get of an image that take it in another form than the stored one.
type Form string

const (
	// Docker is the Docker manifest of an image manifest.
	Docker Form = "docker"
	// Index is an OCI index of an image manifest alone.
	Index Form = "index"
	// List is the Docker manifest list of an index, or of an image manifest alone.
	List Form = "list"
)

// errUnknownForm is of a record that another version of this program has written.
var errUnknownForm = errors.New("there is no such form")

// formBytes bounds what records of forms take in memory: some 100 bytes each. unwrittenBytes is for
// those that this process alone remembers.
const (
	formBytes      = 1 << 20
	unwrittenBytes = 1 << 18
)

// A formRecord tells what the manifest of a digest was made of. The digest is in its key.
type formRecord struct {
	Of   digest.Digest `json:"of"`
	Form Form          `json:"form"`
	// Repository is empty in records from before there was one.
	Repository string `json:"repository,omitempty"`
}

// A Made manifest is one that the storage does not have.
type Made struct {
	Digest   digest.Digest
	Manifest distribution.Manifest
}

// A Reader reads what a repository stores.
type Reader struct {
	Name      string // of the repository
	Manifests distribution.ManifestService
	Blobs     distribution.BlobProvider
}

// Make makes a form of a stored manifest, and remembers of which, for Again. The error is
// image.ErrNoDockerForm if there is no such form. Options are those by which the stored manifest is
// read.
func (s *Store) Make(
	ctx context.Context, from Reader, of digest.Digest, form Form, options ...distribution.ManifestServiceOption,
) (Made, error) {
	made, learned, err := from.make(ctx, of, form, options...)
	if err != nil {
		return Made{}, fmt.Errorf("making the form %s of manifest %s: %w", form, of, err)
	}
	for dgst, record := range learned {
		if err := s.remember(ctx, from.Name, dgst, record); err != nil {
			return Made{}, err
		}
	}
	return parsed(made)
}

// Again makes a form once more of whose digest somebody has learned earlier. It returns false if no
// form has that digest, or the stored manifest has gone.
func (s *Store) Again(ctx context.Context, from Reader, dgst digest.Digest) (Made, bool, error) {
	key := formKey(from.Name, dgst)
	record, ok := s.unwritten.Get(key)
	if !ok {
		var err error
		if record, ok, err = s.forms.Get(ctx, key); err != nil || !ok {
			return Made{}, false, err
		}
	}
	made, _, err := from.make(ctx, record.Of, record.Form)
	if gone(err) || errors.Is(err, errUnknownForm) || err == nil && made.Digest != dgst {
		return Made{}, false, nil
	}
	if err != nil {
		return Made{}, false, fmt.Errorf("making the form %s of manifest %s again: %w", record.Form, record.Of, err)
	}
	if record.Repository == "" { // so that it counts as one that somebody uses
		record.Repository = from.Name
		if err := s.remember(ctx, from.Name, dgst, record); err != nil {
			return Made{}, false, err
		}
	}
	again, err := parsed(made)
	return again, err == nil, err
}

func gone(err error) bool {
	return errors.As(err, new(distribution.ErrManifestUnknownRevision)) || errors.Is(err, distribution.ErrBlobUnknown)
}

func formKey(repository string, form digest.Digest) string {
	return records.Key(repository, form.String())
}

// remember keeps a record, unless it is known. In read-only mode, or if it can't be written, only
// this process remembers: the image can be served all the same. The next time, it tries again.
func (s *Store) remember(ctx context.Context, repository string, form digest.Digest, record formRecord) error {
	key := formKey(repository, form)
	if !s.options.ReadOnly {
		before, known, err := s.forms.Get(ctx, key)
		if known && before.Repository != "" || err != nil {
			return err
		}
		if err = s.forms.Put(ctx, key, record); err == nil {
			s.unwritten.Remove(key)
			return nil
		}
		logrus.WithError(err).Warnf("nix: other registries on this storage may not know %s of %s", form, repository)
	}
	s.unwritten.Add(key, record, len(record.Of)+len(record.Form))
	return nil
}

// make makes a form of a stored manifest. It also returns what is to be remembered: of the form,
// and of the manifests in a list.
func (r Reader) make(
	ctx context.Context, of digest.Digest, form Form, options ...distribution.ManifestServiceOption,
) (made image.Manifest, learned map[digest.Digest]formRecord, err error) {
	children, err := r.children(ctx, of, form != Docker, options...)
	if err != nil {
		return image.Manifest{}, nil, err
	}
	learned = make(map[digest.Digest]formRecord)
	switch {
	case form == List:
		var forms []image.Manifest
		made, forms, err = image.DockerList(children)
		for i, one := range forms {
			learned[one.Digest] = formRecord{digest.FromBytes(children[i].Payload), Docker, r.Name}
		}
	case len(children) != 1:
		err = errors.New("it is an index")
	case form == Docker:
		made, err = image.DockerForm(children[0].Payload)
	case form == Index:
		made, err = image.IndexOfOne(children[0])
	default:
		err = errUnknownForm
	}
	learned[made.Digest] = formRecord{of, form, r.Name}
	return made, learned, err
}

// children are the image manifests in an index, or an image manifest itself. The platform of the
// latter is read only if it is wanted.
func (r Reader) children(
	ctx context.Context, of digest.Digest, platform bool, options ...distribution.ManifestServiceOption,
) ([]image.Child, error) {
	stored, err := r.Manifests.Get(ctx, of, options...)
	if err != nil {
		return nil, err
	}
	mediaType, payload, err := stored.Payload()
	if err != nil {
		return nil, err
	}
	if mediaType != v1.MediaTypeImageIndex {
		one := image.Child{Payload: payload}
		if platform {
			one.Platform, err = r.platform(ctx, payload)
		}
		return []image.Child{one}, err
	}
	var children []image.Child
	for _, reference := range stored.References() {
		if reference.Platform == nil {
			return nil, fmt.Errorf("the index has no platform for %s", reference.Digest)
		}
		manifest, err := r.Manifests.Get(ctx, reference.Digest)
		if err != nil {
			return nil, err
		}
		_, payload, err := manifest.Payload()
		if err != nil {
			return nil, err
		}
		children = append(children, image.Child{Payload: payload, Platform: *reference.Platform})
	}
	return children, nil
}

// platform reads from its config which platform an image manifest is for.
func (r Reader) platform(ctx context.Context, payload []byte) (v1.Platform, error) {
	desc, err := image.ConfigOf(payload)
	if err != nil {
		return v1.Platform{}, err
	}
	config, err := r.Blobs.Get(ctx, desc.Digest)
	if err != nil {
		return v1.Platform{}, err
	}
	return image.PlatformOf(config)
}

// parsed has a manifest as the registry's own types have it.
func parsed(made image.Manifest) (Made, error) {
	manifest, _, err := distribution.UnmarshalManifest(made.MediaType, made.Payload)
	if err != nil {
		return Made{}, fmt.Errorf("parsing own manifest: %w", err)
	}
	return Made{made.Digest, manifest}, nil
}
