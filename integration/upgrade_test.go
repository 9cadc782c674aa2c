//go:build upgrade

package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// loadTime is how long clients use two versions at once.
const loadTime = 30 * time.Second

// fleet is some registries over one storage, and what clients saw of them.
type fleet struct {
	t          *testing.T
	registries []*Registry
	mu         sync.Mutex
	requests   int
	pushed     map[string]digest.Digest // by NAME:TAG
}

// TestUpgrade has the program in PREVIOUS and the one at hand serve one storage, while clients push,
// pull and have images built. No push is lost, no answer is 5xx, and when the clients are done,
// neither program packs what the other has packed. scripts/test-upgrade.sh runs it.
func TestUpgrade(t *testing.T) {
	previous := os.Getenv("PREVIOUS")
	if previous == "" {
		t.Fatal("PREVIOUS must name the program of the last release: scripts/test-upgrade.sh builds it")
	}
	before, now := NewRegistry(t), NewRegistry(t)
	before.Program = previous
	now.Configure("storage.filesystem.rootdirectory=" + filepath.Join(before.Dir, "storage"))
	before.Start()
	now.Start()
	f := &fleet{t: t, registries: []*Registry{before, now}, pushed: make(map[string]digest.Digest)}

	ctx, cancel := context.WithTimeout(t.Context(), loadTime)
	defer cancel()
	var clients sync.WaitGroup
	for client := range 2 {
		clients.Go(func() { f.pushAndPull(ctx, client) })
		clients.Go(func() { f.pullBuilt(ctx, client) })
	}
	clients.Wait()
	t.Logf("%d requests, %d pushes", f.requests, len(f.pushed))
	if f.requests < 100 || len(f.pushed) < 10 {
		t.Errorf("%d requests and %d pushes tell little", f.requests, len(f.pushed))
	}

	for ref, want := range f.pushed {
		name, tag, _ := strings.Cut(ref, ":")
		for _, r := range f.registries {
			if got := f.pull(r, name, tag); got.Digest != want {
				t.Errorf("%s was pushed as %s, and is %s", ref, want, got.Digest)
			}
		}
	}

	// Each pulls what the other has made last, until both have seen all.
	settle := func() {
		for number := range images {
			for _, r := range f.registries {
				r.CheckWhole(t, f.pull(r, imageName(number), "latest"))
			}
		}
	}
	settle()
	settle()
	records := layerRecords(t, before)
	if len(records) == 0 {
		t.Fatal("there are no records of layers")
	}
	settle()
	settle()
	if after := layerRecords(t, before); !maps.Equal(records, after) {
		for name, written := range after {
			if records[name] != written {
				t.Errorf("the layer of %s was packed again at %s", name, written)
			}
		}
	}
}

// images is how many images are built under load.
const images = 24

// imageName is a name of two or three packages.
func imageName(number int) string {
	packages := []string{"bc", "cowsay", "figlet", "hello", "jq", "less", "sl", "tree"}
	name := packages[number%8] + "/" + packages[(number+1+number/8)%8]
	if number%3 == 0 {
		name = "shell/" + name
	}
	return name
}

// pullBuilt pulls images that nobody has pushed from either registry, by turns.
func (f *fleet) pullBuilt(ctx context.Context, client int) {
	for number := client; ctx.Err() == nil; number++ {
		r := f.registries[number%2]
		r.CheckWhole(f.t, f.pull(r, imageName(number/2%images), "latest"))
	}
}

// pushAndPull pushes images to one registry, and pulls them from the other at once.
func (f *fleet) pushAndPull(ctx context.Context, client int) {
	for number := 0; ctx.Err() == nil; number++ {
		to, from := f.registries[number%2], f.registries[(number+1)%2]
		name := fmt.Sprintf("team/app%d", client)
		tag := fmt.Sprintf("v%d", number)
		want := f.push(to, name, tag)
		if got := f.pull(from, name, tag); got.Digest != want {
			f.t.Errorf("%s:%s was pushed as %s, and is %s at the other registry", name, tag, want, got.Digest)
		}
		f.mu.Lock()
		f.pushed[name+":"+tag] = want
		f.mu.Unlock()
	}
}

// do sends a request, follows redirects, and reports an answer that is not wanted.
func (f *fleet) do(r *Registry, method, url string, body []byte, mediaType string, want int) (http.Header, []byte) {
	if strings.HasPrefix(url, "/") {
		url = "http://" + r.Addr + url
	}
	request, err := http.NewRequestWithContext(f.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		f.t.Error(err)
		return nil, nil
	}
	request.Header.Set("Content-Type", mediaType)
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		f.t.Error(err)
		return nil, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	f.mu.Lock()
	f.requests++
	f.mu.Unlock()
	if err != nil || response.StatusCode != want {
		f.t.Errorf("%s %s: %s %s %v", method, url, response.Status, answer, err)
	}
	return response.Header, answer
}

func (f *fleet) pull(r *Registry, name, tag string) (image Image) {
	_, body := f.do(r, http.MethodGet, "/v2/"+name+"/manifests/"+tag, nil, "", http.StatusOK)
	image = Image{Name: name, Digest: digest.FromBytes(body)}
	if err := json.Unmarshal(body, &image.Manifest); err != nil {
		f.t.Errorf("%s:%s: %v", name, tag, err)
	}
	return image
}

// push pushes an image of one layer that no other has.
func (f *fleet) push(r *Registry, name, tag string) digest.Digest {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	text := name + tag
	if err := archive.WriteHeader(&tar.Header{Name: "text", Mode: 0o644, Size: int64(len(text))}); err != nil {
		f.t.Error(err)
	}
	io.WriteString(archive, text)
	archive.Close()
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}},
	})
	if err != nil {
		f.t.Error(err)
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	manifest.Config = f.pushBlob(r, name, v1.MediaTypeImageConfig, config)
	manifest.Layers = []v1.Descriptor{f.pushBlob(r, name, v1.MediaTypeImageLayer, layer.Bytes())}
	content, err := json.Marshal(manifest)
	if err != nil {
		f.t.Error(err)
	}
	f.do(r, http.MethodPut, "/v2/"+name+"/manifests/"+tag, content, v1.MediaTypeImageManifest, http.StatusCreated)
	return digest.FromBytes(content)
}

func (f *fleet) pushBlob(r *Registry, name, mediaType string, content []byte) v1.Descriptor {
	blob := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	header, _ := f.do(r, http.MethodPost, "/v2/"+name+"/blobs/uploads/", nil, "", http.StatusAccepted)
	if location := header.Get("Location"); location != "" {
		url := location + "&digest=" + blob.Digest.String()
		f.do(r, http.MethodPut, url, content, "application/octet-stream", http.StatusCreated)
	}
	return blob
}

// layerRecords says when each record of a layer was written. Who packs a layer writes its record.
func layerRecords(t *testing.T, r *Registry) map[string]time.Time {
	t.Helper()
	written := make(map[string]time.Time)
	root := filepath.Join(r.Dir, "storage", "nix", "v1")
	if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if kind, _, _ := strings.Cut(strings.TrimPrefix(path, root+"/"), "/"); kind != "layers" {
			return nil
		}
		info, err := entry.Info()
		if err == nil {
			written[path] = info.ModTime()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return written
}
