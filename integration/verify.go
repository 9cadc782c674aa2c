package integration

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// maxLayers is how many layers an image has at most: 94 of store paths, and the root layer.
const maxLayers = 94 + 1

// Verify checks every claim of an image against the bytes that the registry serves and against the
// machine's Nix store, and returns the image's config. Closure is what the image must hold, each
// path once.
func (r *Registry) Verify(t testing.TB, image Image, closure []store.Path) v1.Image {
	t.Helper()
	var config v1.Image
	if err := json.Unmarshal(r.Blob(t, image, image.Config), &config); err != nil {
		t.Fatalf("the config of %s: %v", image.Name, err)
	}
	if err := checkConfig(image.Manifest, config); err != nil {
		t.Fatalf("%s: %v", image.Name, err)
	}
	var held []store.Path
	var root layerEntries
	all := make(layerEntries)
	for i, layer := range image.Layers {
		entries, err := r.layer(t.Context(), image.Name, layer, config.RootFS.DiffIDs[i])
		if err != nil {
			t.Fatalf("layer %d of %s: %v", i, image.Name, err)
		}
		paths, err := historyPaths(config.History[i])
		if err != nil {
			t.Fatalf("layer %d of %s: %v", i, image.Name, err)
		}
		if i == 0 {
			root, err = entries, checkRoot(entries)
		} else {
			err = errors.Join(checkStorePaths(entries, paths), compareWithStore(entries, paths))
		}
		if err != nil {
			t.Errorf("layer %d of %s: %v", i, image.Name, err)
		}
		held = append(held, paths...)
		maps.Copy(all, entries)
	}
	if err := checkLinks(root, all); err != nil {
		t.Errorf("%s: %v", image.Name, err)
	}
	slices.Sort(held)
	if !slices.Equal(held, closure) {
		t.Errorf("%s holds the store paths\n%s\nwant\n%s", image.Name, lines(held), lines(closure))
	}
	return config
}

// Closure returns the store paths that an image of packages must hold, by what Nix says of them,
// sorted. The packages are attribute paths in the Nix language, such as haskellPackages.hlint; they
// must have been built.
func Closure(t testing.TB, set string, packages ...string) []store.Path {
	t.Helper()
	expression := fmt.Sprintf(
		"let set = import %s { }; in map (p: p.outPath) [ set.%s ]", set, strings.Join(packages, " set."),
	)
	var outputs []string
	if err := json.Unmarshal(
		[]byte(Exec(t, "nix-instantiate", "--eval", "--strict", "--json", "--expr", expression)), &outputs,
	); err != nil {
		t.Fatal(err)
	}
	var closure []store.Path
	for line := range strings.Lines(Exec(t, "nix-store", append([]string{"--query", "--requisites"}, outputs...)...)) {
		p, err := store.ParsePath(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		closure = append(closure, p)
	}
	slices.Sort(closure)
	return slices.Compact(closure)
}

func lines(paths []store.Path) string {
	var b strings.Builder
	for _, p := range paths {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// checkConfig compares what manifest and config have in common.
func checkConfig(manifest v1.Manifest, config v1.Image) error {
	n := len(manifest.Layers)
	switch {
	case n < 1 || n > maxLayers:
		return fmt.Errorf("%d layers, want 1 to %d", n, maxLayers)
	case len(config.RootFS.DiffIDs) != n || len(config.History) != n:
		return fmt.Errorf(
			"%d layers, but %d diff IDs and %d history entries", n, len(config.RootFS.DiffIDs),
			len(config.History),
		)
	case config.OS != "linux" || config.Architecture == "" || config.Created == nil:
		return fmt.Errorf("the platform is %q, created %v", config.Platform, config.Created)
	}
	for _, key := range []string{v1.AnnotationSource, v1.AnnotationRevision} {
		if label := config.Config.Labels[key]; label == "" || label != manifest.Annotations[key] {
			return fmt.Errorf("%s: the label is %q, the annotation %q", key, label, manifest.Annotations[key])
		}
	}
	return nil
}

// historyPaths are the store paths that a layer holds, by its entry in the history. The root
// layer's has none.
func historyPaths(history v1.History) ([]store.Path, error) {
	list, ok := strings.CutPrefix(history.CreatedBy, "nix: ")
	if !ok || history.EmptyLayer {
		return nil, fmt.Errorf("the history says %q", history.CreatedBy)
	}
	if list == "profile" {
		return nil, nil
	}
	var paths []store.Path
	for _, word := range strings.Split(list, " ") {
		p, err := store.ParsePath(word)
		if err != nil {
			return nil, fmt.Errorf("the history: %w", err)
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// A layerEntry is a file, directory or link of a layer.
type layerEntry struct {
	*tar.Header
	sum [sha256.Size]byte // of a regular file's content; of a hard link's target
}

// layerEntries are the entries of a layer by name, without leading or trailing slashes.
type layerEntries map[string]layerEntry

// layer gets a layer and checks its digest, its size, its diff ID and what holds for every layer's
// entries.
func (r *Registry) layer(
	ctx context.Context, name string, layer v1.Descriptor, diffID digest.Digest,
) (layerEntries, error) {
	request, err := http.NewRequestWithContext(
		ctx, http.MethodGet, "http://"+r.Addr+"/v2/"+name+"/blobs/"+layer.Digest.String(), nil,
	)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.ContentLength != layer.Size {
		return nil, fmt.Errorf(
			"%s: %s, %d bytes, want %d", layer.Digest, response.Status, response.ContentLength, layer.Size,
		)
	}
	blob, content := digest.SHA256.Digester(), digest.SHA256.Digester()
	stored := io.TeeReader(response.Body, blob.Hash())
	plain, err := decompress(stored, layer.MediaType)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	archive := io.TeeReader(plain, content.Hash())
	entries, err := readLayer(archive)
	if err != nil {
		return nil, err
	}
	// What follows the last entry belongs to the digests too.
	for _, rest := range []io.Reader{archive, stored} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return nil, err
		}
	}
	if blob.Digest() != layer.Digest || content.Digest() != diffID {
		return nil, fmt.Errorf(
			"digest %s, want %s; diff ID %s, want %s", blob.Digest(), layer.Digest, content.Digest(), diffID,
		)
	}
	return entries, nil
}

func decompress(r io.Reader, mediaType string) (io.ReadCloser, error) {
	switch mediaType {
	case v1.MediaTypeImageLayerGzip:
		return gzip.NewReader(r)
	case v1.MediaTypeImageLayerZstd:
		decoder, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	case v1.MediaTypeImageLayer:
		return io.NopCloser(r), nil
	}
	return nil, fmt.Errorf("media type %s", mediaType)
}

// readLayer reads a layer's archive and checks what holds in every layer: each name once,
// directories before what is in them, and what is in the store in order; owner 0, time 1, no
// special files and modes; hard links to earlier files; equal files only once.
func readLayer(r io.Reader) (layerEntries, error) {
	entries := make(layerEntries)
	first := make(map[string]string) // the name of each file, by mode and content
	var last []string
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(header.Name, "/")
		parts := strings.Split(name, "/")
		_, twice := entries[name]
		if !fs.ValidPath(name) || name == "." || twice || parts[0] == "nix" && slices.Compare(last, parts) >= 0 {
			return nil, fmt.Errorf("%q follows %q", header.Name, strings.Join(last, "/"))
		}
		last = parts
		if parent := path.Dir(name); parent != "." && entries[parent].Header == nil {
			return nil, fmt.Errorf("%q: its directory is not in the layer", name)
		}
		if header.Uid != 0 || header.Gid != 0 || header.Uname != "" || header.Gname != "" ||
			!header.ModTime.Equal(time.Unix(1, 0)) {
			return nil, fmt.Errorf(
				"%q: owner %d:%d %s:%s, time %v", name, header.Uid, header.Gid, header.Uname, header.Gname,
				header.ModTime,
			)
		}
		if header.Mode&^0o1777 != 0 {
			return nil, fmt.Errorf("%q: mode %o", name, header.Mode)
		}
		for key := range header.PAXRecords {
			if key != "path" && key != "linkpath" && key != "size" {
				return nil, fmt.Errorf("%q: record %q", name, key)
			}
		}
		entry := layerEntry{Header: header}
		switch header.Typeflag {
		case tar.TypeDir, tar.TypeSymlink:
		case tar.TypeReg:
			sum := sha256.New()
			if _, err := io.Copy(sum, archive); err != nil {
				return nil, err
			}
			sum.Sum(entry.sum[:0])
			key := fmt.Sprintf("%o %x", header.Mode, entry.sum)
			if first[key] != "" && header.Size > 0 {
				return nil, fmt.Errorf("%q has the content of %q again", name, first[key])
			}
			first[key] = name
		case tar.TypeLink:
			target := entries[header.Linkname]
			if target.Header == nil || target.Typeflag != tar.TypeReg || target.Mode != header.Mode {
				return nil, fmt.Errorf(
					"%q is a hard link to %q, which is no earlier file of the same mode", name,
					header.Linkname,
				)
			}
			entry.sum = target.sum
		default:
			return nil, fmt.Errorf("%q: type %q", name, header.Typeflag)
		}
		entries[name] = entry
	}
}

// checkRoot checks the layer of merged packages, but for its links.
func checkRoot(entries layerEntries) error {
	var faults []error
	for name, mode := range map[string]int64{
		"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755, "sbin": 0o755,
		"sys": 0o755, "tmp": 0o1777, "usr/bin": 0o755, "var/tmp": 0o1777,
	} {
		if got := entries[name]; got.Header == nil || got.Typeflag != tar.TypeDir || got.Mode != mode {
			faults = append(faults, fmt.Errorf("%s: %+v, want a directory of mode %o", name, got.Header, mode))
		}
	}
	for _, name := range []string{"etc/passwd", "etc/group", "etc/nsswitch.conf"} {
		if got := entries[name]; got.Header == nil || got.Typeflag != tar.TypeReg {
			faults = append(faults, fmt.Errorf("%s: %+v, want a regular file", name, got.Header))
		}
	}
	for name, entry := range entries {
		switch {
		case name == "nix" || strings.HasPrefix(name, "nix/"):
			faults = append(faults, fmt.Errorf("%s is in the root layer", name))
		case path.Dir(name) == "bin" && entry.Typeflag == tar.TypeSymlink && entries["usr/"+name].Header == nil:
			faults = append(faults, fmt.Errorf("%s is not in /usr", name))
		case entry.Typeflag == tar.TypeDir && entry.Mode != 0o755 &&
			name != "root" && name != "tmp" && name != "var/empty" && name != "var/tmp",
			entry.Typeflag == tar.TypeReg && entry.Mode != 0o644 && name != "etc/shadow" && name != "etc/gshadow":
			faults = append(faults, fmt.Errorf("%s: mode %o", name, entry.Mode))
		}
	}
	return errors.Join(faults...)
}

// checkStorePaths checks that a layer holds these store paths, with the modes of layers, and
// nothing else.
func checkStorePaths(entries layerEntries, paths []store.Path) error {
	var faults []error
	for _, p := range paths {
		if entries[string(p[1:])].Header == nil {
			faults = append(faults, fmt.Errorf("%s is missing", p))
		}
	}
	for name, entry := range entries {
		want := []int64{0o444, 0o555}
		switch entry.Typeflag {
		case tar.TypeDir:
			want = []int64{0o755}
		case tar.TypeSymlink:
			want = []int64{0o777}
		}
		if name != "nix" && name != "nix/store" && !slices.Contains(paths, storePathOf("/"+name)) {
			faults = append(faults, fmt.Errorf("%s is in none of the layer's store paths", name))
		}
		if !slices.Contains(want, entry.Mode) {
			faults = append(faults, fmt.Errorf("%s: mode %o", name, entry.Mode))
		}
	}
	return errors.Join(faults...)
}

// storePathOf is the store path that an absolute name lies in, or empty.
func storePathOf(name string) store.Path {
	rel, ok := strings.CutPrefix(name, store.Dir+"/")
	base, _, _ := strings.Cut(rel, "/")
	if !ok || base == "" {
		return ""
	}
	return store.Path(store.Dir + "/" + base)
}

// compareWithStore checks that a layer has all that store paths have on this machine, as it is
// there.
func compareWithStore(entries layerEntries, paths []store.Path) error {
	want := 2 // nix and nix/store
	for _, p := range paths {
		err := filepath.WalkDir(string(p), func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			want++
			return compareWithFile(entries[name[1:]], name)
		})
		if err != nil {
			return err
		}
	}
	if len(entries) != want {
		return fmt.Errorf("%d entries, the store has %d", len(entries), want)
	}
	return nil
}

func compareWithFile(entry layerEntry, name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if entry.Header == nil {
		return fmt.Errorf("%s is missing", name)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		if entry.Typeflag != tar.TypeDir {
			return fmt.Errorf("%s is no directory", name)
		}
	case fs.ModeSymlink:
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		if entry.Typeflag != tar.TypeSymlink || entry.Linkname != target {
			return fmt.Errorf("%s links to %q, want %q", name, entry.Linkname, target)
		}
	default:
		if entry.Typeflag != tar.TypeReg && entry.Typeflag != tar.TypeLink {
			return fmt.Errorf("%s is no file", name)
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, file); err != nil {
			return err
		}
		if [sha256.Size]byte(sum.Sum(nil)) != entry.sum {
			return fmt.Errorf("%s: another content", name)
		}
		if executable := info.Mode()&0o111 != 0; executable != (entry.Mode&0o111 != 0) {
			return fmt.Errorf("%s: mode %o, the store has %v", name, entry.Mode, info.Mode())
		}
	}
	return nil
}

// checkLinks checks that what the root layer links to in the store is in the image.
func checkLinks(root, image layerEntries) error {
	var faults []error
	for name, entry := range root {
		if entry.Typeflag == tar.TypeSymlink && strings.HasPrefix(entry.Linkname, store.Dir+"/") &&
			!image.holds(entry.Linkname, 0) {
			faults = append(faults, fmt.Errorf("%s links to %s, which is not in the image", name, entry.Linkname))
		}
	}
	return errors.Join(faults...)
}

// holds tells whether there is an entry of an absolute name. Links on the way to it are followed,
// the entry itself may be a dangling one.
func (e layerEntries) holds(name string, hops int) bool {
	if hops > 40 {
		return false
	}
	for i, c := range name[1:] {
		if c != '/' {
			continue
		}
		dir, rest := name[1:1+i], name[1+i:]
		switch entry := e[dir]; {
		case entry.Header == nil:
			return false
		case entry.Typeflag == tar.TypeSymlink && path.IsAbs(entry.Linkname):
			return e.holds(path.Join(entry.Linkname, rest), hops+1)
		case entry.Typeflag == tar.TypeSymlink:
			return e.holds(path.Join("/", path.Dir(dir), entry.Linkname, rest), hops+1)
		}
	}
	return e[name[1:]].Header != nil
}
