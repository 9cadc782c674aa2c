package integration

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// included are the packages of every image, shellPackages those of images with a shell.
var (
	included      = []string{"cacert", "iana-etc"}
	shellPackages = []string{"bashInteractive", "coreutils", "moreutils", "nano"}
)

// Every claim of images of all kinds holds, however they are compressed.
func TestImages(t *testing.T) {
	images := []struct {
		name     string
		packages []string // as the Nix language names them
		minPaths int
	}{
		{name: "hello", packages: []string{"hello"}, minPaths: 4},
		{name: "shell/git", packages: append([]string{"git"}, shellPackages...), minPaths: 30},
		{name: "python3", packages: []string{"python3"}, minPaths: 10},
		{name: "nginx", packages: []string{"nginx"}, minPaths: 5},
		{
			name: "shell/ffmpeg/imagemagick/graphviz/git/vim/w3m/nodejs",
			packages: append(
				[]string{"ffmpeg", "imagemagick", "graphviz", "git", "vim", "w3m", "nodejs"},
				shellPackages...), minPaths: 250,
		},
		{
			name: "1demo/7zz/upperpackages.hlint/dotted.demo/files-demo/perlpackages.json",
			packages: []string{
				"_1demo", "_7zz", "upperPackages.HLint", `"dotted.demo"`, "files-demo", "perlPackages.JSON",
			}, minPaths: 15,
		},
	}
	diffIDs := make(map[string][]digest.Digest) // of the first compression
	for _, compression := range []struct{ name, mediaType, docker string }{
		{"gzip", v1.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{"zstd", v1.MediaTypeImageLayerZstd, ""},
		{"none", v1.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar"},
	} {
		r := StartRegistry(t, "nix.image.compression="+compression.name)
		for _, test := range images {
			t.Run(compression.name+"/"+strings.ReplaceAll(test.name, "/", "+"), func(t *testing.T) {
				image := r.Pull(t, test.name)
				for _, layer := range image.Layers {
					if layer.MediaType != compression.mediaType {
						t.Errorf("layer %s is %s", layer.Digest, layer.MediaType)
					}
				}
				closure := Closure(t, DemoPackages(t), append(test.packages, included...)...)
				if len(closure) < test.minPaths {
					t.Errorf("%d store paths, want at least %d", len(closure), test.minPaths)
				}
				config := r.Verify(t, image, closure)
				if known := diffIDs[test.name]; known == nil {
					diffIDs[test.name] = config.RootFS.DiffIDs
				} else if !slices.Equal(known, config.RootFS.DiffIDs) {
					t.Error("the diff IDs depend on the compression")
				}
				checkDockerForm(t, r, image, compression.docker)
				for _, accept := range []string{v1.MediaTypeImageManifest, dockerManifest} {
					checkHead(t, r, "/v2/"+test.name+"/manifests/latest", accept)
				}
				// Clients print each at every pull.
				_, header, _, err := r.Get(t.Context(), "/v2/"+test.name+"/manifests/latest", v1.MediaTypeImageManifest)
				if warning := header.Get("Warning"); warning != "" || err != nil {
					t.Errorf("an image with which nothing is wrong has a warning: %s, %v", warning, err)
				}
			})
		}
	}
}

// checkDockerForm checks what clients get that do not know OCI: the same image, or, where Docker
// has no form of its layers, nothing.
func checkDockerForm(t *testing.T, r *Registry, image Image, layerType string) {
	t.Helper()
	path := "/v2/" + image.Name + "/manifests/latest"
	if layerType == "" {
		for _, accept := range []string{dockerManifest, dockerList, "application/json", ""} {
			status, header, body, err := r.Ask(t.Context(), path, http.Header{"Accept": {accept}})
			if err != nil || status != http.StatusNotFound || header.Get("Vary") != "Accept" ||
				!strings.Contains(string(body), "compressed with zstd") ||
				!strings.Contains(string(body), v1.MediaTypeImageManifest) {
				t.Errorf("without a form for Docker, the answer is %d %v %s, %v", status, header, body, err)
			}
		}
		r.form(t, image.Name, "latest", dockerManifest+","+v1.MediaTypeImageIndex, v1.MediaTypeImageIndex)
		return
	}
	status, header, body, err := r.Get(t.Context(), path, dockerManifest)
	if err != nil {
		t.Fatal(err)
	}
	var docker v1.Manifest
	if err := json.Unmarshal(body, &docker); status != http.StatusOK || err != nil {
		t.Fatalf("Docker's form: status %d, %v", status, err)
	}
	want := image.Manifest
	want.Layers = slices.Clone(want.Layers)
	want.MediaType, want.Config.MediaType, want.Annotations = dockerManifest, dockerConfig, nil
	for i := range want.Layers {
		want.Layers[i].MediaType = layerType
	}
	if got, want := mustJSON(t, docker), mustJSON(t, want); got != want {
		t.Errorf("Docker's form is\n%s\nwant\n%s", got, want)
	}
	own := digest.FromBytes(body)
	if header.Get("Docker-Content-Digest") != own.String() || header.Get("Content-Type") != dockerManifest {
		t.Errorf("Docker's form has the digest %s, the header is %v", own, header)
	}
	status, header, again, err := r.Get(t.Context(), "/v2/"+image.Name+"/manifests/"+own.String(), dockerManifest)
	if err != nil || status != http.StatusOK || header.Get("Content-Type") != dockerManifest ||
		!bytes.Equal(again, body) {
		t.Errorf("Docker's form by digest: status %d, %v, %d bytes, %v", status, header, len(again), err)
	}
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkHead checks that HEAD says what GET says.
func checkHead(t *testing.T, r *Registry, path, accept string) {
	t.Helper()
	getStatus, get, _, err := r.Get(t.Context(), path, accept)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+r.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	head, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	head.Body.Close()
	if head.StatusCode != getStatus {
		t.Errorf("HEAD %s of %s has status %d, GET %d", path, accept, head.StatusCode, getStatus)
	}
	for _, key := range []string{"Docker-Content-Digest", "Content-Length", "Content-Type", "Etag"} {
		if got, want := head.Header.Get(key), get.Get(key); got != want || want == "" && getStatus == http.StatusOK {
			t.Errorf("HEAD %s of %s has %s: %q, GET %q", path, accept, key, got, want)
		}
	}
}

// The checks of layers find what is wrong with one.
func TestChecksOfLayers(t *testing.T) {
	const base = "nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-htop-3.2.2"
	dir := func(name string, mode int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: time.Unix(1, 0)}
	}
	file := func(name string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, ModTime: time.Unix(1, 0)}
	}
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o444, ModTime: time.Unix(1, 0)}
	}
	layer := func(entries ...tar.Header) []tar.Header {
		return append([]tar.Header{dir("nix", 0o755), dir("nix/store", 0o755), dir(base, 0o755)}, entries...)
	}
	changed := func(h tar.Header, change func(*tar.Header)) tar.Header {
		change(&h)
		return h
	}
	for _, test := range []struct {
		name    string
		entries []tar.Header
		same    bool   // files have the same content
		want    string // in the error; empty: none
	}{
		{
			name:    "whole",
			entries: layer(dir(base+"/a", 0o755), file(base+"/a/b"), file(base+"/a.b"), link(base+"/c", base+"/a/b")),
		},
		{name: "no parent", entries: layer(file(base + "/a/b")), want: "its directory is not in the layer"},
		{
			name: "parent later", entries: layer(file(base+"/a/b"), dir(base+"/a", 0o755)),
			want: "its directory is not in the layer",
		},
		{name: "not sorted", entries: layer(file(base+"/b"), file(base+"/a")), want: "follows"},
		{name: "twice", entries: layer(file(base+"/a"), file(base+"/a")), want: "follows"},
		{name: "absolute", entries: layer(file("/" + base)), want: "follows"},
		{name: "climbing", entries: layer(file(base + "/../a")), want: "follows"},
		{
			name: "owner", entries: layer(changed(file(base+"/a"), func(h *tar.Header) { h.Uid = 30001 })),
			want: "owner 30001:0",
		},
		{
			name:    "group",
			entries: layer(changed(file(base+"/a"), func(h *tar.Header) { h.Gname = "nixbld" })),
			want:    "nixbld",
		},
		{
			name:    "time",
			entries: layer(changed(file(base+"/a"), func(h *tar.Header) { h.ModTime = time.Unix(2, 0) })),
			want:    "time",
		},
		{
			name: "setuid", entries: layer(changed(file(base+"/a"), func(h *tar.Header) { h.Mode = 0o4555 })),
			want: "mode 4555",
		},
		{
			name:    "writable",
			entries: layer(changed(file(base+"/a"), func(h *tar.Header) { h.Mode = 0o644 })),
			want:    "mode 644",
		},
		{
			name:    "device",
			entries: layer(changed(file(base+"/a"), func(h *tar.Header) { h.Typeflag = tar.TypeChar })),
			want:    "type '3'",
		},
		{name: "extended attribute", entries: layer(changed(file(base+"/a"), func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
		})), want: "SCHILY.xattr.user.a"},
		{
			name: "hard link forwards", entries: layer(link(base+"/a", base+"/b"), file(base+"/b")),
			want: "no earlier file",
		},
		{
			name: "hard link of another mode",
			entries: layer(
				file(base+"/a"), changed(link(base+"/b", base+"/a"), func(h *tar.Header) { h.Mode = 0o555 }),
			),
			want: "no earlier file",
		},
		{name: "equal files", entries: layer(file(base+"/a"), file(base+"/b")), same: true, want: "again"},
		{name: "path missing", entries: layer()[:2], want: "is missing"},
		{name: "path too many", entries: layer(dir(base+"-doc", 0o755)), want: "is in none of the layer's store paths"},
	} {
		t.Run(test.name, func(t *testing.T) {
			entries, err := readLayer(archiveOf(t, test.entries, test.same))
			if err == nil {
				err = checkStorePaths(entries, []store.Path{"/" + base})
			}
			if test.want == "" && err != nil ||
				test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("the error is %v, want %q", err, test.want)
			}
		})
	}
}

// The comparison with the store finds what differs.
func TestComparisonWithStore(t *testing.T) {
	dir := t.TempDir()
	Write(t, filepath.Join(dir, "file"), "content")
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, of string
		header   *tar.Header
		content  string
		want     string // in the error; empty: none
	}{
		{"file", "file", &tar.Header{Typeflag: tar.TypeReg, Mode: 0o444}, "content", ""},
		{"hard link", "file", &tar.Header{Typeflag: tar.TypeLink, Mode: 0o444}, "content", ""},
		{"symbolic link", "link", &tar.Header{Typeflag: tar.TypeSymlink, Linkname: "file"}, "", ""},
		{"directory", "", &tar.Header{Typeflag: tar.TypeDir}, "", ""},
		{"missing", "file", nil, "", "is missing"},
		{"another content", "file", &tar.Header{Typeflag: tar.TypeReg, Mode: 0o444}, "contents", "another content"},
		{"executable", "file", &tar.Header{Typeflag: tar.TypeReg, Mode: 0o555}, "content", "mode 555"},
		{"a link for a file", "file", &tar.Header{Typeflag: tar.TypeSymlink}, "content", "is no file"},
		{"a file for a link", "link", &tar.Header{Typeflag: tar.TypeReg}, "", "links to"},
		{"another target", "link", &tar.Header{Typeflag: tar.TypeSymlink, Linkname: "other"}, "", `links to "other"`},
		{"a file for a directory", "", &tar.Header{Typeflag: tar.TypeReg}, "", "is no directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := compareWithFile(
				layerEntry{test.header, sha256.Sum256([]byte(test.content))}, filepath.Join(dir, test.of),
			)
			if test.want == "" && err != nil ||
				test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("the error is %v, want %q", err, test.want)
			}
		})
	}
}

// archiveOf makes an archive in which every file has its name as content, or all have the same.
func archiveOf(t *testing.T, entries []tar.Header, same bool) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, header := range entries {
		content := ""
		if header.Typeflag == tar.TypeReg {
			if content = header.Name; same {
				content = "same"
			}
		}
		header.Size = int64(len(content))
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}

// The check of links follows those on the way, but not the last, which may be a dangling one.
func TestCheckOfLinks(t *testing.T) {
	const a, b = "nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-a", "nix/store/bj2q88glyrgps19f9gidl6xyb2arnfvh-b"
	symlink := func(target string) layerEntry {
		return layerEntry{Header: &tar.Header{Typeflag: tar.TypeSymlink, Linkname: target}}
	}
	directory := layerEntry{Header: &tar.Header{Typeflag: tar.TypeDir}}
	image := layerEntries{
		"nix": directory, "nix/store": directory, a: directory, b: directory, b + "/share": directory,
		b + "/share/text":    {Header: &tar.Header{Typeflag: tar.TypeReg}},
		a + "/share":         symlink("/" + b + "/share"),
		a + "/relative":      symlink("../" + b[len("nix/store/"):] + "/share"),
		a + "/loop":          symlink("loop"),
		b + "/share/nowhere": symlink("missing"),
	}
	for _, test := range []struct {
		name, target string
		want         bool
	}{
		{"a file", "/" + b + "/share/text", true},
		{"over a link", "/" + a + "/share/text", true},
		{"over a relative link", "/" + a + "/relative/text", true},
		{"a dangling link", "/" + a + "/share/nowhere", true},
		{"missing", "/" + a + "/share/missing", false},
		{"below a dangling link", "/" + a + "/share/nowhere/text", false},
		{"below a circle", "/" + a + "/loop/text", false},
		{"another path", "/nix/store/cj2q88glyrgps19f9gidl6xyb2arnfvh-c/text", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkLinks(layerEntries{"bin/text": symlink(test.target)}, image)
			if (err == nil) != test.want {
				t.Errorf("the error is %v, want none: %t", err, test.want)
			}
		})
	}
}
