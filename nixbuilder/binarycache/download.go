package binarycache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// A download reads a file of a cache from its beginning to its end. If it is cut off, it goes on
// from there, as often as Options.Attempts allows.
type download struct {
	open  func(offset int64) (io.ReadCloser, error)
	pause func() error // before another attempt; fails if there is none

	body   io.ReadCloser // nil: to be opened
	offset int64
	err    error // what ended it, but for io.EOF
}

func (c *cache) download(ctx context.Context, name string) *download {
	attempts := 1
	return &download{
		open: func(offset int64) (io.ReadCloser, error) { return c.files.open(ctx, name, offset) },
		pause: func() error {
			if attempts >= c.options.Attempts {
				return errors.New("tried often enough")
			}
			wait := time.NewTimer(c.options.Pause << (attempts - 1))
			defer wait.Stop()
			attempts++
			select {
			case <-wait.C:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
	}
}

func (d *download) Read(p []byte) (int, error) {
	for d.err == nil {
		if d.body == nil {
			if d.body, d.err = d.open(d.offset); d.err != nil {
				d.body = nil
				d.retry()
				continue
			}
		}
		n, err := d.body.Read(p)
		d.offset += int64(n)
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		d.close()
		d.body, d.err = nil, err
		d.retry()
		if n > 0 {
			return n, nil
		}
	}
	return 0, d.err
}

// retry forgets the error if another attempt may help and is allowed.
func (d *download) retry() {
	if errors.Is(d.err, fs.ErrNotExist) {
		return
	}
	if end := d.pause(); end != nil {
		d.err = fmt.Errorf("%w (%w)", d.err, end)
		return
	}
	d.err = nil
}

// close ends the download. Its error would say nothing about what has been read.
func (d *download) close() {
	if d.body != nil {
		_ = d.body.Close()
	}
}
