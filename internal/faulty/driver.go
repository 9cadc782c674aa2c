package faulty

import (
	"context"
	"io"
	"net/http"

	"github.com/distribution/distribution/v3/registry/storage/driver"
)

type nothing = struct{}

// act makes a call that returns nothing but an error.
func (d *Driver) act(ctx context.Context, op, path string, whole, half func() error) error {
	returning := func(do func() error) func() (nothing, error) {
		if do == nil {
			return nil
		}
		return func() (nothing, error) { return nothing{}, do() }
	}
	_, err := do(ctx, d, Call{op, path}, returning(whole), returning(half))
	return err
}

// GetContent implements driver.StorageDriver.
func (d *Driver) GetContent(ctx context.Context, path string) ([]byte, error) {
	return do(ctx, d, Call{"GetContent", path}, func() ([]byte, error) {
		return d.StorageDriver.GetContent(ctx, path)
	}, nil)
}

// PutContent implements driver.StorageDriver.
func (d *Driver) PutContent(ctx context.Context, path string, content []byte) error {
	put := func(content []byte) func() error {
		return func() error { return d.StorageDriver.PutContent(ctx, path, content) }
	}
	return d.act(ctx, "PutContent", path, put(content), put(content[:len(content)/2]))
}

// Reader implements driver.StorageDriver.
func (d *Driver) Reader(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	return do(ctx, d, Call{"Reader", path}, func() (io.ReadCloser, error) {
		return d.StorageDriver.Reader(ctx, path, offset)
	}, nil)
}

// Writer implements driver.StorageDriver.
func (d *Driver) Writer(ctx context.Context, path string, appends bool) (driver.FileWriter, error) {
	return do(ctx, d, Call{"Writer", path}, func() (driver.FileWriter, error) {
		writer, err := d.StorageDriver.Writer(ctx, path, appends)
		if err != nil {
			return nil, err
		}
		return &fileWriter{FileWriter: writer, driver: d, path: path}, nil
	}, nil)
}

// Stat implements driver.StorageDriver.
func (d *Driver) Stat(ctx context.Context, path string) (driver.FileInfo, error) {
	return do(ctx, d, Call{"Stat", path}, func() (driver.FileInfo, error) {
		return d.StorageDriver.Stat(ctx, path)
	}, nil)
}

// List implements driver.StorageDriver.
func (d *Driver) List(ctx context.Context, path string) ([]string, error) {
	return do(ctx, d, Call{"List", path}, func() ([]string, error) {
		return d.StorageDriver.List(ctx, path)
	}, nil)
}

// Move implements driver.StorageDriver.
func (d *Driver) Move(ctx context.Context, from, to string) error {
	return d.act(ctx, "Move", from, func() error { return d.StorageDriver.Move(ctx, from, to) }, nil)
}

// Delete implements driver.StorageDriver.
func (d *Driver) Delete(ctx context.Context, path string) error {
	return d.act(ctx, "Delete", path, func() error { return d.StorageDriver.Delete(ctx, path) }, nil)
}

// RedirectURL implements driver.StorageDriver.
func (d *Driver) RedirectURL(r *http.Request, path string) (string, error) {
	return do(r.Context(), d, Call{"RedirectURL", path}, func() (string, error) {
		return d.StorageDriver.RedirectURL(r, path)
	}, nil)
}

// Walk implements driver.StorageDriver. All of it is one call.
func (d *Driver) Walk(
	ctx context.Context, path string, f driver.WalkFn, options ...func(*driver.WalkOptions),
) error {
	return d.act(ctx, "Walk", path, func() error { return d.StorageDriver.Walk(ctx, path, f, options...) }, nil)
}

// A fileWriter counts its calls as the driver's.
type fileWriter struct {
	driver.FileWriter
	driver *Driver
	path   string
}

// Write implements driver.FileWriter.
func (w *fileWriter) Write(p []byte) (int, error) {
	write := func(p []byte) func() (int, error) {
		return func() (int, error) { return w.FileWriter.Write(p) }
	}
	n, err := do(context.Background(), w.driver, Call{"Write", w.path}, write(p), write(p[:len(p)/2]))
	if err == nil {
		n = len(p) // also where half was written, or nothing
	}
	return n, err
}

// Commit implements driver.FileWriter.
func (w *fileWriter) Commit(ctx context.Context) error {
	return w.driver.act(ctx, "Commit", w.path, func() error { return w.FileWriter.Commit(ctx) }, nil)
}

// Cancel implements driver.FileWriter.
func (w *fileWriter) Cancel(ctx context.Context) error {
	return w.driver.act(ctx, "Cancel", w.path, func() error { return w.FileWriter.Cancel(ctx) }, nil)
}

// Close implements driver.FileWriter.
func (w *fileWriter) Close() error {
	return w.driver.act(context.Background(), "Close", w.path, w.FileWriter.Close, nil)
}
