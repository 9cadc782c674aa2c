package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// differences are the paths at which the released image may differ from the Dockerfile's, with the
// reasons.
var differences = []struct{ paths, reason string }{
	{`\.dockerenv|(dev|proc|sys)(/.*)?|etc/(hostname|hosts|mtab|resolv\.conf)`, "Docker makes them"},
	{`etc/(fstab|apt/sources\.list.*)|var/log/bootstrap\.log`, "debootstrap writes its own"},
	{`usr/share/(doc|groff|info|lintian|locale|man)(/.*)?|etc/dpkg/dpkg\.cfg\.d/documents`, "documents are left out"},
	{`etc/alternatives/.*\.[0-9]\.gz|etc/alternatives/which\...1\.gz`, "manuals have no alternatives"},
	{`var/lib/dpkg/alternatives(/.*)?|var/log/alternatives\.log`, "manuals have no alternatives"},
	{`etc/ssl/certs/[0-9a-f]{8}\.[0-9]`, "no program of the image looks certificates up by hash"},
	{`etc/ca-certificates\.conf`, "without the comment at the top"},
	{`etc/ld\.so\.cache|var/cache/ldconfig(/.*)?`, "the loader does without for Debian's directories"},
	{`etc/pam\.d/common-.*|var/lib/pam(/.*)?`, "nobody logs in"},
	{`etc/systemd(/.*)?|var/lib/systemd(/.*)?`, "nothing is started by systemd"},
	{`var/cache/debconf(/.*)?`, "no question was asked"},
	{`etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/\.pwd\.lock`, "backups and a lock"},
	{`etc/g?shadow`, "has the day of its making"},
	{`etc/shells|var/lib/shells\.state`, "does not name each shell by both paths"},
	{`run/(adduser|mount)|var/log/(dpkg|faillog|apt).*|var/lib/dpkg/.*(lock|lock-frontend|-old|Lock)`, "left behind by programs"},
	{`var/lib/dpkg/(available|cmethopt|diversions|status)`, "dpkg's own, compared by dpkg --verify"},
	{`var/(cache|lib)/apt(/.*)?`, "debootstrap's"},
	{`home/registry/\..*|root/\..*`, "times of the skeleton"},
	{`usr/local/bin/registry`, "the program itself"},
}

// entry is what is compared of a file.
type entry struct {
	kind             byte
	mode             int64
	uid, gid         int
	target, contents string
}

// readTree adds what a layer or an export has. Hard links count as files of their own.
func readTree(t *testing.T, tree map[string]entry, source io.Reader, kept map[string]string) {
	t.Helper()
	for archive := tar.NewReader(source); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		made := entry{header.Typeflag, header.Mode & 0o7777, header.Uid, header.Gid, header.Linkname, ""}
		switch {
		case name == "":
			continue
		case header.Typeflag == tar.TypeLink:
			made = tree[strings.TrimPrefix(path.Clean("/"+header.Linkname), "/")]
		case header.Typeflag == tar.TypeReg:
			hash := sha256.New()
			var content bytes.Buffer
			target := io.Writer(hash)
			if strings.HasPrefix(name, "var/lib/dpkg/") {
				target = io.MultiWriter(hash, &content)
			}
			if _, err := io.Copy(target, archive); err != nil {
				t.Fatal(err)
			}
			kept[name] = content.String()
			made.contents = fmt.Sprintf("%x", hash.Sum(nil))
		}
		tree[name] = made
	}
}

// owners says which package of dpkg's database each path is of, as NAME VERSION.
func owners(kept map[string]string) map[string]string {
	of := make(map[string]string)
	for paragraph := range strings.SplitSeq(kept["var/lib/dpkg/status"], "\n\n") {
		field := func(name string) string {
			_, value, _ := strings.Cut("\n"+paragraph, "\n"+name+": ")
			value, _, _ = strings.Cut(value, "\n")
			return value
		}
		name := field("Package")
		for _, list := range []string{name, name + ":" + field("Architecture")} {
			base := "var/lib/dpkg/info/" + list
			for file := range strings.FieldsSeq(kept[base+".list"]) {
				of[strings.TrimPrefix(file, "/")] = name + " " + field("Version")
			}
			for _, kind := range []string{"list", "md5sums", "triggers", "symbols", "shlibs"} {
				of[base+"."+kind] = name + " " + field("Version")
			}
		}
	}
	return of
}

// releaseImage makes the archive of a release from the packages of the lock file, or of a new one
// if Debian's mirror has replaced some of them.
func releaseImage(t *testing.T, out, program string) {
	t.Helper()
	dir := Dir(t)
	lock, packages := filepath.Join(shared.root, "deploy", "debian.lock"), filepath.Join(shared.root, "build", "debian-packages")
	fetch := filepath.Join(shared.root, "scripts", "fetch-debian.sh")
	if _, stderr, err := TryExec(t.Context(), fetch, lock, packages); err != nil {
		if !strings.Contains(stderr, "404") {
			t.Fatalf("%v: %s", err, stderr)
		}
		lock = filepath.Join(dir, "debian.lock")
		Exec(t, filepath.Join(shared.root, "scripts", "lock-debian.sh"), lock)
		Exec(t, fetch, lock, packages)
	}
	for _, architecture := range []string{"amd64", "arm64"} { // which of them it is does not matter here
		if err := os.Link(program, filepath.Join(dir, "registry-linux-"+architecture)); err != nil {
			t.Fatal(err)
		}
	}
	Exec(t, "go", "build", "-C", shared.root, "-o", filepath.Join(dir, "release"), "./internal/release")
	for number, zone := range []string{"UTC", "Asia/Tokyo"} {
		Exec(
			t, "env", "TZ="+zone, filepath.Join(dir, "release"), "-lock", lock, "-packages", packages, "-programs", dir,
			"-stock", filepath.Join(shared.root, "deploy", "stock.yml"), "-version", "1.2.3", "-revision",
			strings.Repeat("a", 40), "-created", "1800000000", "-out", fmt.Sprint(out, number),
		)
	}
	first, second := sha256Of(t, out+"0"), sha256Of(t, out+"1")
	if first != second {
		t.Errorf("made twice, the archives are %s and %s", first, second)
	}
	if err := os.Rename(out+"0", out); err != nil {
		t.Fatal(err)
	}
}

func sha256Of(t *testing.T, file string) digest.Digest {
	t.Helper()
	source, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	sum, err := digest.FromReader(source)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// readJSON decodes a blob of a layout, whose digest it checks.
func readJSON(t *testing.T, layout string, blob v1.Descriptor, value any) {
	t.Helper()
	content := Read(t, filepath.Join(layout, "blobs", "sha256", blob.Digest.Encoded()))
	if digest.FromString(content) != blob.Digest || int64(len(content)) != blob.Size {
		t.Fatalf("%s has other bytes", blob.Digest)
	}
	if err := json.Unmarshal([]byte(content), value); err != nil {
		t.Fatal(err)
	}
}

// TestReleaseImage makes the released image twice, compares it with the Dockerfile's, and pulls
// from a container of it. Programs of the one for arm64 are run under emulation.
func TestReleaseImage(t *testing.T) {
	t.Parallel()
	Needs(t, "docker", "debootstrap", "skopeo", "nsenter", "qemu-aarch64-static", "go", "curl")
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := Dir(t)
	archive, layout := filepath.Join(dir, "image.oci.tar"), filepath.Join(dir, "layout")
	releaseImage(t, archive, program)
	if err := os.Mkdir(layout, 0o755); err != nil {
		t.Fatal(err)
	}
	Exec(t, "tar", "--extract", "--file", archive, "--directory", layout)
	var top, index v1.Index
	if err := json.Unmarshal([]byte(Read(t, filepath.Join(layout, "index.json"))), &top); err != nil {
		t.Fatal(err)
	}
	readJSON(t, layout, top.Manifests[0], &index)
	if len(index.Manifests) != 2 || index.Annotations[v1.AnnotationVersion] != "1.2.3" {
		t.Fatalf("the index is %+v", index)
	}

	released, kept := readImage(t, layout, index.Manifests[0], "amd64")
	base := buildDockerfile(t)
	compareTrees(t, released, kept, base)
	checkReleased(t, archive, base)

	foreign, _ := readImage(t, layout, index.Manifests[1], "arm64")
	if len(foreign) < len(released)*9/10 {
		t.Errorf("arm64 has %d files, amd64 %d", len(foreign), len(released))
	}
	runForeign(t, layout, index.Manifests[1])
}

// readImage checks an image of the layout, and returns its files, and of dpkg's the contents.
func readImage(
	t *testing.T, layout string, image v1.Descriptor, architecture string,
) (tree map[string]entry, kept map[string]string) {
	t.Helper()
	var manifest v1.Manifest
	var config v1.Image
	readJSON(t, layout, image, &manifest)
	readJSON(t, layout, manifest.Config, &config)
	if image.Platform.Architecture != architecture || config.Architecture != architecture || config.OS != "linux" ||
		!strings.Contains(config.Config.Labels["io.github.nixery-registry.debian-packages"], " nix-bin=2.26") {
		t.Errorf("the image for %s says %+v", architecture, config)
	}
	tree, kept = make(map[string]entry), make(map[string]string)
	for number, layer := range manifest.Layers {
		source, err := os.Open(filepath.Join(layout, "blobs", "sha256", layer.Digest.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		compressed, plain := sha256.New(), sha256.New()
		unzipped, err := gzip.NewReader(io.TeeReader(source, compressed))
		if err != nil {
			t.Fatal(err)
		}
		content := io.TeeReader(unzipped, plain)
		readTree(t, tree, content, kept)
		if _, err := io.Copy(io.Discard, content); err != nil {
			t.Fatal(err)
		}
		if digest.NewDigest(digest.SHA256, compressed) != layer.Digest ||
			digest.NewDigest(digest.SHA256, plain) != config.RootFS.DiffIDs[number] {
			t.Errorf("layer %d of %s has other digests", number, architecture)
		}
	}
	return tree, kept
}

// compareTrees compares the released image with the Dockerfile's, but for the files of packages of
// which they have other versions.
func compareTrees(t *testing.T, released map[string]entry, kept map[string]string, base string) {
	t.Helper()
	exported := filepath.Join(Dir(t), "exported.tar")
	container := strings.TrimSpace(Engines[0].Exec(t, "create", base))
	Engines[0].Exec(t, "export", "--output", exported, container)
	Engines[0].Exec(t, "rm", container)
	source, err := os.Open(exported)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	built, builtKept := make(map[string]entry), make(map[string]string)
	readTree(t, built, source, builtKept)
	ours, theirs := owners(kept), owners(builtKept)
	var alternatives []string
	for _, difference := range differences {
		alternatives = append(alternatives, difference.paths)
	}
	allowed := regexp.MustCompile("^(" + strings.Join(alternatives, "|") + ")$")
	compared, differ := 0, 0
	paths := maps.Clone(released)
	maps.Copy(paths, built)
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		a, isReleased := released[name]
		b, isBuilt := built[name]
		if ours[name] != theirs[name] {
			continue // another version
		}
		if isReleased && isBuilt && a == b {
			compared++
			continue
		}
		if allowed.MatchString(name) {
			differ++
			continue
		}
		t.Errorf("/%s is %+v (%t) in the released image, and %+v (%t) in the Dockerfile's", name, a, isReleased, b, isBuilt)
	}
	t.Logf("%d of %d files are the same, %d differ as they may", compared, len(built), differ)
	if compared < len(built)/2 {
		t.Errorf("only %d of %d files could be compared: build/debian-*.tar is old, remove it", compared, len(built))
	}
}

// checkReleased loads the image, compares its configuration with the Dockerfile's image, has dpkg
// and apt look at what is installed, and pulls from a container of it.
func checkReleased(t *testing.T, archive, base string) {
	t.Helper()
	docker, loaded := Engines[0], filepath.Join(Dir(t), "docker.tar")
	Exec(t, "skopeo", "copy", "--insecure-policy", "oci-archive:"+archive,
		"docker-archive:"+loaded+":test/released:latest")
	docker.Exec(t, "load", "--quiet", "--input", loaded)
	const format = "{{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.ExposedPorts}} " +
		"{{json .Config.User}} {{json .Config.Healthcheck}} {{json .Config.WorkingDir}} {{json .Config.Volumes}}"
	released := docker.Exec(t, "inspect", "--format", format, "test/released")
	built := docker.Exec(t, "inspect", "--format", format, base)
	if released != built {
		t.Errorf("the released image has the configuration\n%s, and the Dockerfile's\n%s", released, built)
	}
	const look = "dpkg --audit && apt-get check -qq && ldconfig && " +
		"! dpkg --verify | grep -vE '^missing +/usr/share/(doc|groff|info|linda|lintian|locale|man)/'"
	if out := docker.Run(
		t, "--network", "none", "--user", "0", "--entrypoint", "sh", "test/released", "-c", look,
	); out != "" {
		t.Errorf("of what is installed, dpkg and apt say: %s", out)
	}
	packages, conf := FreshPackages(t), filepath.Join(Dir(t), "nix.conf")
	Write(t, conf, "build-users-group =\nsandbox = false\nsubstituters =\n")
	pid := docker.Detach(t, slices.Concat(
		[]string{"--name", "released", "--network", "none", "--volume", conf + ":/etc/nix/nix.conf:ro"}, confined,
		[]string{
			"--env", "NIXERY_BUILD_LOCAL=true", "--env", "NIXERY_PKGS_PATH=/packages",
			"--volume", packages + ":/packages:ro",
			"--health-interval", "1s", "test/released",
		})...)
	Eventually(t, startTime*4, "the released image is healthy", func() bool {
		return docker.Exec(t, "inspect", "--format", "{{.State.Health.Status}}", "released") == "healthy"
	})
	pulled := filepath.Join(Dir(t), "quick.tar")
	Exec(t, "nsenter", "--target", pid, "--net", "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false",
		"docker://127.0.0.1:5000/quick", "docker-archive:"+pulled+":quick:released")
	docker.Exec(t, "load", "--quiet", "--input", pulled)
	if out := docker.Run(t, "--network", "none", "quick:released"); out != "hello" {
		t.Errorf("the image that was pulled prints %q, want hello", out)
	}
}

// runForeign unpacks the image for arm64 and runs some of its programs.
func runForeign(t *testing.T, layout string, image v1.Descriptor) {
	t.Helper()
	var manifest v1.Manifest
	readJSON(t, layout, image, &manifest)
	root := filepath.Join(Dir(t), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	Exec(t, "tar", "--extract", "--gzip", "--directory", root, "--file",
		filepath.Join(layout, "blobs", "sha256", manifest.Layers[0].Digest.Encoded()))
	for _, command := range []struct{ program, argument, want string }{
		{"nix", "--version", "nix (Nix) 2.26"}, {"git", "--version", "git version 2."},
		{"curl", "--version", "curl 8."}, {"tini", "--version", "tini version"}, {"ssh", "-V", ""},
	} {
		file := filepath.Join(root, "usr", "bin", command.program)
		opened, err := elf.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		opened.Close()
		if opened.Machine != elf.EM_AARCH64 {
			t.Errorf("%s is for %s", command.program, opened.Machine)
		}
		out := Exec(t, "qemu-aarch64-static", "-L", root, file, command.argument)
		if !strings.HasPrefix(out, command.want) {
			t.Errorf("%s prints %q, want %q", command.program, out, command.want)
		}
	}
}
