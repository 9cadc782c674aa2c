package nixbuilder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

var (
	someLayers = []packedLayer{
		{Blob: Blob{Digest: digest.FromString("root"), Size: 1, DiffID: digest.FromString("root tar")}},
		{
			Paths: []store.Path{path("a-1"), path("b-1")},
			Blob:  Blob{Digest: digest.FromString("ab"), Size: 2, DiffID: digest.FromString("ab tar")},
		},
	}
	somePin = source.Pinned{Name: "path:set", Revision: "0123"}
)

// What the registry could not read again is refused with the limit.
func TestDocumentsAreBounded(t *testing.T) {
	label := func(bytes int) map[string]string { return map[string]string{"a": strings.Repeat("x", bytes)} }
	many := make([]store.PathInfo, 100_000)
	for i := range many {
		many[i].Path = path(fmt.Sprintf("a-path-of-the-usual-length-%d", i))
	}
	for _, test := range []struct {
		name   string
		refuse func() error
		want   string // empty: it is not refused
	}{
		{"a config", func() error {
			_, err := imageConfig(someLayers, "linux/amd64", somePin, v1.ImageConfig{Labels: label(maxDocument)})
			return err
		}, "the config of this image would have 4194"},
		{"a config that may be", func() error {
			_, err := imageConfig(
				someLayers, "linux/amd64", somePin, v1.ImageConfig{Labels: label(maxDocument - 10_000)},
			)
			return err
		}, ""},
		{"a manifest", func() error {
			_, err := imageManifest([]byte("{}"), someLayers, layer.Gzip, label(maxDocument))
			return err
		}, "the manifest of this image would have 4194"},
		{"a manifest that may be", func() error {
			_, err := imageManifest([]byte("{}"), someLayers, layer.Gzip, label(maxDocument-10_000))
			return err
		}, ""},
		{"an index", func() error {
			_, err := imageIndex([]platformManifest{{platform: "linux/amd64"}}, label(maxDocument))
			return err
		}, "the manifest of this image would have 4194"},
		{"a config with many paths, before they are packed", func() error {
			_, err := new(Builder).assemble(t.Context(), order{pinned: somePin}, many, nil)
			return err
		}, "the config of this image would have"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.refuse()
			refused := (*Error)(nil)
			if errors.As(err, &refused) != (test.want != "") {
				t.Fatalf("the error is %v", err)
			}
			if refused != nil &&
				(refused.Kind != Denied || !strings.Contains(refused.Message, test.want) || !strings.Contains(refused.Message, "4194304 are allowed")) {
				t.Errorf("the error is %+v, want %q", refused, test.want)
			}
		})
	}
}

func TestImageConfig(t *testing.T) {
	dated := somePin
	dated.Date = time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("elsewhere", 3600))
	for _, test := range []struct {
		name, platform string
		pinned         source.Pinned
		created        string
		want           v1.Platform
	}{
		{"no date", "linux/amd64", somePin, "1970-01-01T00:00:01Z", v1.Platform{OS: "linux", Architecture: "amd64"}},
		{
			"the revision's date, in UTC", "linux/arm/v7", dated, "2026-01-02T02:04:05Z",
			v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, err := imageConfig(someLayers, test.platform, test.pinned, v1.ImageConfig{Cmd: []string{"/bin/a"}})
			if err != nil {
				t.Fatal(err)
			}
			var image v1.Image
			if err := json.Unmarshal(config, &image); err != nil {
				t.Fatal(err)
			}
			if got := image.Created.Format(time.RFC3339); got != test.created {
				t.Errorf("created %s, want %s", got, test.created)
			}
			if !reflect.DeepEqual(image.Platform, test.want) {
				t.Errorf("platform %+v, want %+v", image.Platform, test.want)
			}
			if want := []digest.Digest{digest.FromString("root tar"), digest.FromString("ab tar")}; !slices.Equal(
				image.RootFS.DiffIDs, want,
			) {
				t.Errorf("diff IDs %v, want %v", image.RootFS.DiffIDs, want)
			}
			if len(image.History) != 2 ||
				image.History[1].CreatedBy != "nix: "+string(path("a-1"))+" "+string(path("b-1")) {
				t.Errorf("history %+v, want the store paths of each layer", image.History)
			}
		})
	}
}

func TestDockerForm(t *testing.T) {
	for _, test := range []struct {
		compression layer.Compression
		want        string // the layers' media type; empty: there is no such form
	}{
		{layer.Gzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{layer.None, "application/vnd.docker.image.rootfs.diff.tar"},
		{layer.Zstd, ""},
	} {
		t.Run(test.compression.String(), func(t *testing.T) {
			oci, err := imageManifest([]byte("{}"), someLayers, test.compression, map[string]string{"a": "b"})
			if err != nil {
				t.Fatal(err)
			}
			docker, ok, err := DockerForm(oci.Payload)
			if err != nil || ok != (test.want != "") {
				t.Fatalf("DockerForm: %t, %v", ok, err)
			}
			if !ok {
				return
			}
			if docker.Digest != digest.FromBytes(docker.Payload) ||
				docker.MediaType != "application/vnd.docker.distribution.manifest.v2+json" {
				t.Errorf("it says it is %s, a %s", docker.Digest, docker.MediaType)
			}
			var a, b v1.Manifest
			if err := json.Unmarshal(oci.Payload, &a); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(docker.Payload, &b); err != nil {
				t.Fatal(err)
			}
			if b.MediaType != docker.MediaType ||
				b.Config.MediaType != "application/vnd.docker.container.image.v1+json" ||
				b.Config.Digest != a.Config.Digest ||
				b.Config.Size != 2 ||
				b.Annotations != nil {
				t.Errorf("manifest %+v", b)
			}
			for i := range a.Layers {
				if b.Layers[i].MediaType != test.want || b.Layers[i].Digest != a.Layers[i].Digest ||
					b.Layers[i].Size != a.Layers[i].Size {
					t.Errorf("layer %d is %+v, want the blob of %+v as a %s", i, b.Layers[i], a.Layers[i], test.want)
				}
			}
		})
	}
	if _, ok, err := DockerForm([]byte(`{"mediaType": "application/vnd.oci.image.index.v1+json"}`)); ok || err != nil {
		t.Errorf("an index has a Docker form: %t, %v", ok, err)
	}
	if _, _, err := DockerForm([]byte("no JSON")); err == nil {
		t.Error("no error for what is no manifest")
	}
}

// programs makes a profile whose root directory has the given files.
func programs(t *testing.T, files ...string) profile {
	t.Helper()
	root := t.TempDir()
	output := path("programs")
	for _, file := range files {
		name := filepath.Join(root, string(output), file)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	stored := rootfs.NewStoreFiles(root)
	t.Cleanup(stored.Close)
	tree, err := rootfs.Merge(
		t.Context(), []rootfs.Package{{Name: "p", Outputs: []store.Path{output}}}, []store.Path{output},
		stored,
	)
	if err != nil {
		t.Fatal(err)
	}
	return profile{tree: tree}
}

func TestContainerConfig(t *testing.T) {
	user, dir := "nobody", "/srv"
	server := &eval.Image{
		Entrypoint: []string{
			"/bin/serve",
		}, Env: map[string]string{"PORT": "80", "PATH": "/bin"}, User: &user, WorkingDir: &dir,
		Labels: map[string]string{"kind": "server"}, ExposedPorts: []string{"80/tcp"},
	}
	p := programs(t, "bin/bash", "bin/git", "bin/tool", "bin/serve", "etc/ssl/certs/ca-bundle.crt")
	const path, certs = "PATH=" + searchPath, "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt"
	labels := func(more ...string) map[string]string {
		all := map[string]string{v1.AnnotationSource: "path:set", v1.AnnotationRevision: "0123"}
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	git := chosen{asked: true, Package: eval.Package{Pname: "git"}}
	ports := map[string]struct{}{"80/tcp": {}}
	for _, test := range []struct {
		name    string
		request names.Request
		chosen  packages
		profile profile
		want    v1.ImageConfig
	}{
		{
			name: "one package runs", chosen: packages{git}, profile: p,
			want: v1.ImageConfig{Env: []string{path, certs}, Cmd: []string{"/bin/git"}, Labels: labels()},
		},
		{
			name: "its main program goes first", profile: p, chosen: packages{{asked: true, Package: eval.Package{Pname: "git", MainProgram: "tool"}}},
			want: v1.ImageConfig{Env: []string{path, certs}, Cmd: []string{"/bin/tool"}, Labels: labels()},
		},
		{
			name: "a main program that is not there does not", profile: p, chosen: packages{{asked: true, Package: eval.Package{Pname: "x", MainProgram: "../etc/x"}}},
			want: v1.ImageConfig{Env: []string{path, certs}, Labels: labels()},
		},
		{
			name:   "what is included does not count",
			chosen: packages{git, {Package: eval.Package{Pname: "tool"}}}, profile: p,
			want: v1.ImageConfig{Env: []string{path, certs}, Cmd: []string{"/bin/git"}, Labels: labels()},
		},
		{
			name: "two outputs are of one", profile: p, chosen: packages{
				git, {asked: true, Package: eval.Package{Pname: "git", Output: "dev"}},
			},
			want: v1.ImageConfig{Env: []string{path, certs}, Cmd: []string{"/bin/git"}, Labels: labels()},
		},
		{
			name:    "of two packages none",
			chosen:  packages{git, {asked: true, Package: eval.Package{Pname: "tool", Derivation: "tool.drv"}}},
			profile: p, want: v1.ImageConfig{Env: []string{path, certs}, Labels: labels()},
		},
		{
			name: "a shell", request: names.Request{Shell: true}, chosen: packages{git}, profile: p,
			want: v1.ImageConfig{Env: []string{path, certs}, Cmd: []string{"/bin/bash"}, Labels: labels()},
		},
		{
			name: "another shell, no certificates", request: names.Request{Shell: true},
			profile: programs(t, "bin/sh"),
			want:    v1.ImageConfig{Env: []string{path}, Cmd: []string{"/bin/sh"}, Labels: labels()},
		},
		{
			name: "a package says how it runs", profile: p, chosen: packages{{asked: true, Package: eval.Package{Pname: "serve", Image: server}}},
			want: v1.ImageConfig{
				Env: []string{"PATH=/bin", "PORT=80", certs}, Entrypoint: []string{"/bin/serve"},
				User: "nobody", WorkingDir: "/srv", ExposedPorts: ports, Labels: labels("kind", "server"),
			},
		},
		{
			name: "but not how others do", profile: p, chosen: packages{
				git,
				{asked: true, Package: eval.Package{Pname: "serve", Derivation: "serve.drv", Image: server}},
			},
			want: v1.ImageConfig{
				Env: []string{"PATH=/bin", "PORT=80", certs}, ExposedPorts: ports,
				Labels: labels("kind", "server"),
			},
		},
		{
			name: "nor what it was built from", profile: p, chosen: packages{{asked: true, Package: eval.Package{Image: &eval.Image{Labels: map[string]string{v1.AnnotationRevision: "another"}}}}},
			want: v1.ImageConfig{Env: []string{path, certs}, Labels: labels()},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := containerConfig(test.request, test.chosen, test.profile, labels()); !reflect.DeepEqual(
				got, test.want,
			) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestProvenance(t *testing.T) {
	chosen := packages{
		{
			Package: eval.Package{
				Attr:             []string{"git"},
				Version:          "2.39",
				OutputsToInstall: []string{"out"},
				Outputs:          map[string]store.Path{"out": path("git-2.39"), "dev": path("git-2.39-dev")},
			},
		},
		{
			Package: eval.Package{
				Attr:             []string{"git"},
				Output:           "dev",
				Version:          "2.39",
				OutputsToInstall: []string{"dev"},
				Outputs:          map[string]store.Path{"out": path("git-2.39"), "dev": path("git-2.39-dev")},
			},
		},
		{
			Package: eval.Package{
				Attr:             []string{"perlPackages", "JSON"},
				OutputsToInstall: []string{"out", "man"},
				Outputs:          map[string]store.Path{"out": path("json"), "man": path("json-man")},
			},
		},
	}
	got, err := provenance(names.Request{Shell: true, Packages: []string{"git", "perlpackages.json"}}, chosen, somePin)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		v1.AnnotationSource: "path:set", v1.AnnotationRevision: "0123", v1.AnnotationTitle: "shell/git/perlpackages.json",
		"io.github.nixery-registry.packages": `[{"name":"git","version":"2.39","paths":["` + string(
			path("git-2.39"),
		) + `"]},` +
			`{"name":"git.dev","version":"2.39","paths":["` + string(
			path("git-2.39-dev"),
		) + `"]},` +
			`{"name":"perlPackages.JSON","paths":["` + string(
			path("json"),
		) + `","` + string(
			path("json-man"),
		) + `"]}]`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
