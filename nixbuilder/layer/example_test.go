package layer_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

func ExamplePack() {
	// A store of its own, so that the example needs no Nix.
	root, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(root)
	path := store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-hello")
	program := filepath.Join(root, string(path), "bin", "hello")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		fmt.Println(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		fmt.Println(err)
	}

	var blob bytes.Buffer
	compressor := compress.New(compress.Gzip, 1)
	result, err := layer.Pack(
		context.Background(), &blob, compressor, []store.Path{path}, layer.Options{StoreRoot: root},
	)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(compressor.Compression().MediaType())
	fmt.Println(result.Digest, result.Size == int64(blob.Len()))
	fmt.Println(result.DiffID)
	// Output:
	// application/vnd.oci.image.layer.v1.tar+gzip
	// sha256:1e87cdbd24a2bb28a66b59f1f18811a8ac4fe7f84fc6121230e4af55e0363387 true
	// sha256:de8756e786bc9eb6305b695f0ac09d87fb9592e7409d6446879b0d95c0c320c0
}
