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
	// sha256:c97bd5cd6e68290ad12cc1aff9c2e9876ac3643a008b5695a4daae093ec72ed6 true
	// sha256:2cc142959cb0bc78c83af21198e0225e3cfeba2a504417ab6621cb43c446afd0
}
