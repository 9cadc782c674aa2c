package imagestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// An Image is what a tag points to.
type Image struct {
	Digest digest.Digest // of an index or a manifest; empty: the tag points to nothing
	Pushed bool          // somebody's own, which has no Record
	Record
}

// A Record is what is remembered of an image that was built for a tag. Its key has the digest: if
// the tag points elsewhere, there is no record, and the image was pushed.
type Record struct {
	Source   string `json:"source"`
	Revision string `json:"revision"`
	// Nix is its version. The image does not have it, as two hosts make the same image.
	Nix string `json:"nix"`
	// Index says that the tag is for an index, and Missing which platforms it lacks; At is when
	// that was found out.
	Index   bool      `json:"index,omitempty"`
	Missing []string  `json:"missing,omitempty"`
	At      time.Time `json:"at"`
	// Form is Options.Form. It is empty in records from before there was one; these images are
	// taken to have the present form.
	Form string `json:"form,omitempty"`
	// Format is Options.Format. It is 0 in records from before there was one.
	Format int `json:"format,omitempty"`
	// Of is what the record is of, NAME:TAG@DIGEST: its key is a hash of that. It is empty in records
	// from before there was one.
	Of string `json:"of,omitempty"`
}

// LookUp tells what a tag points to. A built image that the storage has lost a part of, as clients
// found, is none.
func (s *Store) LookUp(ctx context.Context, repo distribution.Repository, tag string) (Image, error) {
	desc, err := repo.Tags(ctx).Get(ctx, tag)
	if errors.As(err, new(distribution.ErrTagUnknown)) {
		return Image{}, nil
	}
	if err != nil {
		return Image{}, fmt.Errorf("looking up %s:%s: %w", repo.Named().Name(), tag, err)
	}
	record, built, err := s.records.Get(ctx, recordKey(repo, tag, desc.Digest))
	if err != nil {
		return Image{}, err
	}
	if built {
		if damaged, err := s.damaged(ctx, repo, desc.Digest); damaged || err != nil {
			return Image{}, err
		}
	}
	return Image{Digest: desc.Digest, Pushed: !built, Record: record}, nil
}

// of returns the record as that of a tag's image.
func (r Record) of(repo distribution.Repository, tag string, manifest digest.Digest) Record {
	r.Of = repo.Named().Name() + ":" + tag + "@" + manifest.String()
	return r
}

func recordKey(repo distribution.Repository, tag string, manifest digest.Digest) string {
	return records.Key(repo.Named().Name(), tag, manifest.String())
}
