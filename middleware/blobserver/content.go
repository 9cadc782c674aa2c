package blobserver

import (
	"context"
	"errors"
	"io"

	"github.com/distribution/distribution/v3/registry/storage/driver"
)

// A content is a blob as http.ServeContent wants it. It is opened when something of it is read, at
// the place where that begins.
type content struct {
	ctx     context.Context //nolint:containedctx // that of the request, as long as this lives
	storage driver.StorageDriver
	file    string
	size    int64

	offset int64
	reader io.ReadCloser // at offset; nil: not open
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.offset
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, errors.New("seeking before the beginning of a blob")
	}
	if offset != c.offset {
		_ = c.Close()
		c.offset = offset
	}
	return offset, nil
}

func (c *content) Read(p []byte) (int, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	n, err := c.reader.Read(p)
	c.offset += int64(n)
	return n, err
}

func (c *content) open() (err error) {
	if c.reader == nil {
		c.reader, err = c.storage.Reader(c.ctx, c.file, c.offset)
	}
	return err
}

func (c *content) Close() error {
	if c.reader == nil {
		return nil
	}
	err := c.reader.Close()
	c.reader = nil
	return err
}
