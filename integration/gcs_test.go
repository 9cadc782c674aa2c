package integration

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// smallChunks is the smallest chunk size that Google takes: what is larger is uploaded piece by
// piece.
const smallChunks = "storage.gcs.chunksize=262144"

// What is stored, deleted and collected on a file system is so in a bucket.
func TestGCS(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo", "crane")
	g := newGCS(t)
	r := g.Start(t, smallChunks)
	built := r.Pull(t, "hello")

	if stored := g.Objects(t, "docker/"); len(built.Layers) < 2 ||
		!slices.Contains(stored, blobObject(built.Config.Digest)) {
		t.Errorf("the image has %d layers; the bucket has %q", len(built.Layers), stored)
	}
	for _, kind := range []string{"packages", "layers", "images", "tags", "layout"} {
		if len(g.Objects(t, "nix/v1/"+kind+"/")) == 0 {
			t.Errorf("the bucket has no records of %s", kind)
		}
	}
	left := slices.DeleteFunc(g.Objects(t, ""), func(name string) bool { return !strings.Contains(name, "/_uploads/") })
	if len(left) > 0 {
		t.Errorf("unfinished uploads are left: %q", left)
	}
	g.copyImage(t, r, "hello")

	t.Run("built layer in chunks", func(t *testing.T) {
		checkChunks(t, g.take(), largest(built).Size)
	})
	t.Run("pushed layer in chunks", func(t *testing.T) {
		content := make([]byte, 1_200_000)
		if _, err := rand.Read(content); err != nil {
			t.Fatal(err)
		}
		push(t, r.Ref("team/app:v1"), string(content))
		pushed := r.PullTag(t, "team/app", "v1")
		checkChunks(t, g.take(), largest(pushed).Size)
		g.copyImage(t, r, "team/app:v1")
	})
	t.Run("mounted by a client", func(t *testing.T) {
		g.take()
		Exec(t, "crane", "copy", r.Ref("hello"), r.Ref("team/hello:copied"))
		if copied := r.PullTag(t, "team/hello", "copied"); copied.Digest != built.Digest {
			t.Errorf("the copy's digest is %s, want %s", copied.Digest, built.Digest)
		}
		asked := g.take()
		if uploads := asked.about("/_uploads/"); len(uploads) > 0 {
			t.Errorf("blobs were uploaded:\n%s", uploads.list())
		}
		for _, layer := range built.Layers {
			if len(asked.about("team/hello/_layers/sha256/"+layer.Digest.Encoded()).of("write")) == 0 {
				t.Errorf("layer %s was not mounted", layer.Digest)
			}
		}
		g.copyImage(t, r, "team/hello:copied")
		Exec(t, "crane", "delete", r.Ref("team/hello@"+built.Digest.String()))
	})
	t.Run("deleted and collected", func(t *testing.T) {
		Exec(t, "crane", "delete", r.Ref("hello@"+built.Digest.String()))
		r.Stop()
		r.GarbageCollect()
		for _, layer := range built.Layers {
			if object := blobObject(layer.Digest); len(g.Objects(t, object)) > 0 {
				t.Errorf("%s is still in the bucket", object)
			}
		}
		r.Start()
		if again := r.Pull(t, "hello"); again.Digest != built.Digest {
			t.Errorf("it became %s, was %s", again.Digest, built.Digest)
		}
		g.copyImage(t, r, "hello")
		if got := strings.Count(r.Log(), logBuilt); got != 2 {
			t.Errorf("it was built %d times, want 2", got)
		}
		g.copyImage(t, r, "team/app:v1")
	})
}

// checkChunks checks that a blob of so many bytes was uploaded in several requests.
func checkChunks(t *testing.T, asked calls, size int64) {
	t.Helper()
	const chunk = 262144
	if size < 2*chunk {
		t.Fatalf("%d bytes are no blob to try this with", size)
	}
	chunks := make(map[string]int)
	for _, one := range asked.of("chunk") {
		chunks[one.object]++
	}
	most := 0
	for object, count := range chunks {
		if len(asked.about(object).of("begin")) != 1 {
			t.Errorf("%s was begun %d times", object, len(asked.about(object).of("begin")))
		}
		most = max(most, count)
	}
	if want := int(size / chunk); most < want {
		t.Errorf("%d bytes came in %d chunks, want at least %d", size, most, want)
	}
}

func largest(image Image) v1.Descriptor {
	return slices.MaxFunc(image.Layers, func(a, b v1.Descriptor) int { return int(a.Size - b.Size) })
}

// copyImage pulls an image with skopeo, which follows redirects to the bucket and checks digests.
func (g *gcs) copyImage(t *testing.T, r *Registry, ref string) {
	t.Helper()
	Exec(
		t,
		"env",
		append(
			slices.Clone(g.Env), "skopeo", "copy", "--src-tls-verify=false", "docker://"+r.Ref(ref),
			"dir:"+filepath.Join(Dir(t), "image"),
		)...)
}

// Registries on one bucket use each other's layers.
func TestGCSShared(t *testing.T) {
	t.Parallel()
	g := newGCS(t)
	checkShared(t, g.traffic, g.Start(t), g.Start(t))
}

// With a service account's key, by whatever means, clients get blobs from the bucket. With
// credentials that can't sign URLs, they get them from the registry, if it is told so.
func TestGCSCredentials(t *testing.T) {
	t.Parallel()
	g := newGCS(t)
	set := DemoPackages(t)
	built := g.Start(t).Pull(t, "hello")
	nixery := []string{
		"NIXERY_STORAGE_BACKEND=gcs", "GCS_BUCKET=" + bucket, "NIXERY_PKGS_PATH=" + set, "PORT=1",
		"REGISTRY_HTTP_ADDR=127.0.0.1:0",
	}
	home := Dir(t)
	known := filepath.Join(home, ".config", "gcloud", "application_default_credentials.json")
	if err := os.MkdirAll(filepath.Dir(known), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(g.UserFile, known); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name       string
		settings   []string
		env        []string
		redirected bool
	}{
		{"keyfile", []string{"storage.gcs.keyfile=" + g.KeyFile}, nil, true},
		{
			"keyfile, redirects disabled",
			[]string{"storage.gcs.keyfile=" + g.KeyFile, "storage.redirect.disable=true"}, nil, false,
		},
		{"key in the environment", nil, []string{"GOOGLE_APPLICATION_CREDENTIALS=" + g.KeyFile}, true},
		{
			"a user's credentials", []string{"storage.redirect.disable=true"},
			[]string{"GOOGLE_APPLICATION_CREDENTIALS=" + g.UserFile}, false,
		},
		// Google's libraries look for these below the user's home.
		{
			"Nixery's variables without a key", nil,
			append(slices.Clone(nixery), "GOOGLE_APPLICATION_CREDENTIALS=", "HOME="+home), false,
		},
		{
			"Nixery's variables with a key", nil,
			append(slices.Clone(nixery), "GOOGLE_APPLICATION_CREDENTIALS="+g.KeyFile), true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := g.New(t, test.settings...)
			r.Env = slices.Concat(r.Env, test.env)
			if slices.Contains(test.env, nixery[0]) {
				r.Program = withoutFile(t)
				r.Env = append(r.Env, "CACHE_DIRECTORY="+filepath.Join(r.Dir, "cache"))
			}
			r.Start()
			if served := r.Pull(t, "hello"); served.Digest != built.Digest {
				t.Errorf("it serves %s, want %s", served.Digest, built.Digest)
			}
			for _, blob := range append([]v1.Descriptor{built.Config}, built.Layers...) {
				status, header, _, err := r.Get(t.Context(), "/v2/hello/blobs/"+blob.Digest.String())
				if err != nil {
					t.Fatal(err)
				}
				location := header.Get("Location")
				if !test.redirected {
					if status != http.StatusOK || location != "" {
						t.Errorf("the answer is %d to %q, want the blob", status, location)
					}
					continue
				}
				if status != http.StatusTemporaryRedirect {
					t.Fatalf("the answer is %d, want a redirect", status)
				}
				if got := g.get(t, location); digest.FromBytes(got) != blob.Digest {
					t.Errorf(
						"%s leads to %d bytes with digest %s, want %s", location, len(got),
						digest.FromBytes(got), blob.Digest,
					)
				}
			}
		})
	}
}

// get is a GET as by somebody who has no credentials.
func (g *gcs) get(t *testing.T, url string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := g.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %s %v", url, response.Status, body, err)
	}
	return body
}

// withoutFile is a program that starts the registry without a configuration file.
func withoutFile(t *testing.T) string {
	t.Helper()
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(Dir(t), "registry")
	if err := os.WriteFile(name, []byte(fmt.Sprintf("#!/bin/sh\nexec '%s' serve\n", program)), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// What docs/storage.md says of how often the bucket is asked.
func TestGCSCalls(t *testing.T) {
	t.Parallel()
	g := newGCS(t)
	r := g.Start(t)
	// Long enough for calls that do not wait for each other to overlap.
	g.slow(20 * time.Millisecond)
	measure := func(what string, pull func()) calls {
		g.take()
		pull()
		asked := g.take()
		t.Logf("%s: %v", what, asked)
		return asked
	}
	check := func(what string, asked calls, want int) {
		t.Helper()
		if len(asked) == 0 || len(asked) > want {
			t.Errorf("%s: %d calls, want %d\n%s", what, len(asked), want, asked.list())
		}
	}
	blob := func(r *Registry, image Image) func() {
		return func() {
			status, _, _, err := r.Get(t.Context(), "/v2/"+image.Name+"/blobs/"+image.Config.Digest.String())
			if err != nil || status != http.StatusTemporaryRedirect {
				t.Fatalf("the answer is %d, %v, want a redirect", status, err)
			}
		}
	}

	linked := func() {
		Eventually(
			t, commandTime, "all layers are linked",
			func() bool { return len(g.Objects(t, "nix/v1/links/")) == 0 },
		)
	}
	var image Image
	built := measure("build", func() { image = r.Pull(t, "hello/tree") })
	linked()
	var layers []string
	for _, layer := range image.Layers {
		layers = append(layers, layer.Digest.Encoded())
	}
	packed := built.about(append(layers, "/_uploads/", "nix/v1/layers/")...)
	t.Logf("of them, for %d packed layers: %v", len(layers), packed)
	check("packing", packed, 8*len(layers))
	mounted := measure("build, all layers mounted", func() {
		r.Pull(t, "amd64/hello/tree") // another repository with the same layers
		linked()
	})
	t.Logf("of them, for %d mounted layers: %v", len(layers), mounted.about(layers...))
	check("mounting", mounted.about(layers...), 2*len(layers))
	for _, layer := range layers {
		if len(mounted.about("amd64/hello/tree/_layers/sha256/"+layer).of("write")) != 1 {
			t.Errorf("layer %s was not linked once", layer)
		}
	}
	check("an image that is there", measure("an image that is there", func() { r.Pull(t, "hello/tree") }), 3)
	r.Pull(t, "tree/hello")
	check("by another spelling", measure("by another spelling", func() { r.Pull(t, "tree/hello") }), 4)
	check("a blob", measure("a blob", blob(r, image)), 7)
	r.Stop()
	r.Start()
	check(
		"an image that is there, after a start",
		measure("an image that is there, after a start", func() { r.Pull(t, "hello/tree") }), 6,
	)

	cached := g.Start(t, "storage.cache.blobdescriptor=inmemory")
	measure("descriptors cached, an image that is there, after a start", func() { cached.Pull(t, "hello/tree") })
	check(
		"descriptors cached, an image that is there",
		measure("descriptors cached, an image that is there", func() { cached.Pull(t, "hello/tree") }), 1,
	)
	blob(cached, image)()
	measure("descriptors cached, a blob", blob(cached, image))
}
