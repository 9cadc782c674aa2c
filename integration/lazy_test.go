package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Layers that can be read before they are loaded are read so, over HTTP; for other clients they are
// layers like any.
func TestLazyPulling(t *testing.T) {
	for _, compression := range []struct{ name, mediaType string }{
		{"estargz", v1.MediaTypeImageLayerGzip},
		{"zstd:chunked", v1.MediaTypeImageLayerZstd},
	} {
		t.Run(compression.name, func(t *testing.T) {
			r := StartRegistry(t, "nix.image.compression="+compression.name)
			image := r.Pull(t, "shell/git")
			closure := Closure(t, DemoPackages(t), "git")
			isGit := func(p store.Path) bool { return strings.HasPrefix(p.Name(), "git-2") }
			git := closure[slices.IndexFunc(closure, isGit)]
			program := strings.TrimPrefix(string(git)+"/bin/git", "/")
			found := false
			for _, layer := range image.Layers {
				if layer.MediaType != compression.mediaType {
					t.Errorf("layer %s is %s", layer.Digest, layer.MediaType)
				}
				blob := &remoteBlob{url: "http://" + r.Addr + "/v2/" + image.Name + "/blobs/" + layer.Digest.String()}
				reader, err := estargz.Open(
					io.NewSectionReader(blob, 0, layer.Size),
					estargz.WithDecompressors(new(zstdchunked.Decompressor)),
				)
				if err != nil {
					t.Fatalf("layer %s: %v", layer.Digest, err)
				}
				table := digest.Digest(layer.Annotations[estargz.TOCJSONDigestAnnotation])
				if _, err := reader.VerifyTOC(table); err != nil {
					t.Errorf("layer %s: %v", layer.Digest, err)
				}
				file, err := reader.OpenFile(program)
				if err != nil {
					continue // in another layer
				}
				found = true
				want, err := os.ReadFile("/" + program)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s is another (%v)", program, err)
				}
				if blob.bytes > layer.Size/2 {
					t.Errorf("%d of %d bytes were loaded for one file", blob.bytes, layer.Size)
				}
			}
			if !found {
				t.Errorf("no layer's table has %s", program)
			}
			for _, engine := range Engines {
				if engine.Name == "docker" && compression.mediaType == v1.MediaTypeImageLayerZstd {
					continue // Docker before version 23 can't unpack zstd
				}
				engine.Pull(t, r.Ref("shell/git"))
				if got := engine.Run(t, "--network=none", r.Ref("shell/git"), "git", "--version"); !strings.HasPrefix(
					got, "git version",
				) {
					t.Errorf("%s: %q", engine.Name, got)
				}
			}
		})
	}
}

// A remoteBlob is read by ranges.
type remoteBlob struct {
	url   string
	bytes int64 // loaded
}

func (b *remoteBlob) ReadAt(p []byte, offset int64) (int, error) {
	request, err := http.NewRequest(http.MethodGet, b.url, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+int64(len(p))-1))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusPartialContent {
		return 0, fmt.Errorf("reading a range: %s", response.Status)
	}
	n, err := io.ReadFull(response.Body, p)
	b.bytes += int64(n)
	return n, err
}
