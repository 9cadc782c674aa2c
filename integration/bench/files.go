package main

import (
	"context"
	"net"
	"net/http"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
)

// A fileServer serves the storage as plain files: the limit of what a server in Go does here that
// sends files by sendfile.
type fileServer struct {
	url    string
	server *http.Server
	ended  chan error // what Serve returned
}

// startFiles starts one. It reads nothing of a file but what it sends, for which it needs to be told
// the type.
func (b *bench) startFiles(ctx context.Context) (*fileServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	files := http.FileServer(http.Dir(b.storage()))
	f := &fileServer{url: "http://" + listener.Addr().String(), ended: make(chan error, 1)}
	f.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			files.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	go func() { f.ended <- f.server.Serve(listener) }()
	return f, nil
}

// stop ends it, and what it still sends.
func (f *fileServer) stop() {
	_ = f.server.Close()
	<-f.ended
}

// fileOf is where the storage has a blob, in the layout that registries of this version document.
func fileOf(blob digest.Digest) string {
	hex := blob.Encoded()
	return path.Join("/docker/registry/v2/blobs", blob.Algorithm().String(), hex[:2], hex, "data")
}
