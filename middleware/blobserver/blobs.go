package blobserver

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// blobs are those of a repository within one request.
type blobs struct {
	distribution.BlobStore
	storage  driver.StorageDriver
	redirect bool
	found    atomic.Pointer[v1.Descriptor] // the blob that was last looked up
}

// Stat looks a blob up, once if it is the same as before. The registry asks before it serves a blob,
// while it does, and for the notification.
func (b *blobs) Stat(ctx context.Context, dgst digest.Digest) (v1.Descriptor, error) {
	if found := b.found.Load(); found != nil && found.Digest == dgst {
		return *found, nil
	}
	desc, err := b.BlobStore.Stat(ctx, dgst)
	if err == nil {
		b.found.Store(&desc)
	}
	return desc, err
}

// Delete forgets the blob, too.
func (b *blobs) Delete(ctx context.Context, dgst digest.Digest) error {
	b.found.Store(nil)
	return b.BlobStore.Delete(ctx, dgst)
}

// maxAge is how long clients may keep a blob, as upstream has it.
const maxAge = 365 * 24 * time.Hour

// ServeBlob answers as upstream's does.
func (b *blobs) ServeBlob(ctx context.Context, w http.ResponseWriter, r *http.Request, dgst digest.Digest) error {
	desc, err := b.Stat(ctx, dgst)
	if err != nil {
		return err
	}
	header := w.Header()
	if desc.MediaType != "" {
		header.Set("Content-Type", desc.MediaType)
	}
	file := paths.BlobData(desc.Digest)
	if b.redirect {
		url, err := b.storage.RedirectURL(r, file)
		if err != nil {
			return err
		}
		if url != "" {
			http.Redirect(w, r, url, http.StatusTemporaryRedirect)
			return nil
		}
	}
	header.Set("ETag", `"`+desc.Digest.String()+`"`)
	header.Set("Cache-Control", fmt.Sprintf("max-age=%.f", maxAge.Seconds()))
	setDefault(header, "Docker-Content-Digest", desc.Digest.String())
	setDefault(header, "Content-Type", desc.MediaType)
	setDefault(header, "Content-Length", fmt.Sprint(desc.Size))
	blob := &content{ctx: ctx, storage: b.storage, file: file, size: desc.Size}
	defer func() { _ = blob.Close() }()
	http.ServeContent(sender{w, outermostOf(r)}, r, desc.Digest.String(), time.Time{}, blob)
	return nil
}

func setDefault(header http.Header, name, value string) {
	if header.Get(name) == "" {
		header.Set(name, value)
	}
}
