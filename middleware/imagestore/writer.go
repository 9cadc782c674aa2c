package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// bufferBytes is how large a blob may be to be buffered and stored in one piece. A stream asks
	// the storage three times as often.
	bufferBytes = 1 << 20
	// maxBuffered is how many such blobs of the whole registry are being stored at a time.
	maxBuffered = 4
)

// A Writer stores the layers of one image. It implements nixbuilder.Repository and is safe for
// concurrent use.
type Writer struct {
	distribution.Repository
	store      *Store
	made       func()         // ends the pause of pending links
	background errgroup.Group // what Commit waits for

	mu      sync.Mutex
	mounted []v1.Descriptor // to be linked when the image is served
}

// Mount makes a blob that the registry has part of the image. It is false if the registry does not
// have it.
func (w *Writer) Mount(ctx context.Context, dgst digest.Digest) (bool, error) {
	stat, err := w.store.blobs.Stat(ctx, dgst)
	if errors.Is(err, distribution.ErrBlobUnknown) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for blob %s: %w", dgst, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mounted = append(w.mounted, stat)
	return true, nil
}

// Upload calls write, which writes a blob and returns its digest, and stores the blob. Up to
// bufferBytes are buffered, and stored after Upload has returned: their digest is known by then, so
// that whatever refers to the blob can be written meanwhile. A larger blob is a stream. If write
// fails, nothing is stored.
//
// Upload calls done once, when the blob is stored or can't be. The error of done is the upload's.
func (w *Writer) Upload(
	ctx context.Context, write func(io.Writer) (digest.Digest, error),
	done func(context.Context, error) error,
) error {
	var buffer []byte
	var stream *upload // nil: all is in buffer
	dgst, err := write(writerFunc(func(p []byte) (int, error) {
		if stream == nil && len(buffer)+len(p) <= bufferBytes {
			if buffer != nil {
				buffer = slices.Grow(buffer, bufferBytes-len(buffer)) // once: most blobs are written in one piece
			}
			buffer = append(buffer, p...)
			return len(p), nil
		}
		if stream == nil {
			var err error
			if stream, err = w.begin(ctx); err != nil {
				return 0, err
			}
			if _, err := stream.pipe.Write(buffer); err != nil {
				return 0, err
			}
			buffer = nil
		}
		return stream.pipe.Write(p)
	}))
	if stream != nil {
		return done(ctx, stream.end(ctx, dgst, err))
	}
	if err != nil {
		return done(ctx, err)
	}
	release, err := w.store.buffered.Acquire(ctx)
	if err != nil {
		return done(ctx, err)
	}
	w.Go(ctx, func(ctx context.Context) error {
		defer release()
		return done(ctx, w.put(ctx, dgst, buffer))
	})
	return nil
}

// Go does something that Commit waits for. If it fails, so does the commit.
func (w *Writer) Go(ctx context.Context, do func(context.Context) error) {
	ctx = context.WithoutCancel(ctx) // it outlives the packing
	w.background.Go(func() error { return do(ctx) })
}

// Close waits for whatever is still being stored. It is called also without a commit.
func (w *Writer) Close() {
	_ = w.background.Wait() // Commit returned its error, if it came to that
	w.made()
}

func (w *Writer) put(ctx context.Context, dgst digest.Digest, blob []byte) error {
	desc, err := w.Blobs(ctx).Put(ctx, "application/octet-stream", blob)
	if err != nil {
		return fmt.Errorf("storing blob %s: %w", dgst, err)
	}
	if desc.Digest != dgst {
		return fmt.Errorf("storing blob %s: it became %s", dgst, desc.Digest)
	}
	return nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// An upload is a stream into the storage.
type upload struct {
	blob  distribution.BlobWriter
	pipe  *io.PipeWriter
	ended chan error // how the reading end ended
}

func (w *Writer) begin(ctx context.Context) (*upload, error) {
	blob, err := w.Blobs(ctx).Create(ctx)
	if err != nil {
		return nil, fmt.Errorf("beginning an upload: %w", err)
	}
	reader, writer := io.Pipe()
	u := &upload{blob, writer, make(chan error, 1)}
	go func() {
		_, err := blob.ReadFrom(reader) // a single one, as not every driver takes several writes
		reader.CloseWithError(err)
		u.ended <- err
	}()
	return u, nil
}

// end commits what was written, unless err says that writing failed.
func (u *upload) end(ctx context.Context, dgst digest.Digest, err error) error {
	u.pipe.CloseWithError(err)
	if readErr := <-u.ended; err == nil && readErr != nil {
		err = fmt.Errorf("storing a blob: %w", readErr)
	}
	if err == nil {
		if _, err = u.blob.Commit(ctx, v1.Descriptor{Digest: dgst}); err == nil {
			return nil
		}
		err = fmt.Errorf("committing blob %s: %w", dgst, err)
	}
	return errors.Join(err, u.blob.Cancel(context.WithoutCancel(ctx)))
}
