package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

var (
	someLayers = []Layer{
		{Blob: Blob{Digest: digest.FromString("root"), Size: 1, DiffID: digest.FromString("root tar")}},
		{
			Paths: []store.Path{storetest.Path("a-1"), storetest.Path("b-1")},
			Blob:  Blob{Digest: digest.FromString("ab"), Size: 2, DiffID: digest.FromString("ab tar")},
		},
	}
	someOrigin = Origin{Source: "path:set", Revision: "0123"}
)

// What the registry could not read again is refused with the limit.
func TestDocumentsAreBounded(t *testing.T) {
	label := func(bytes int) map[string]string { return map[string]string{"a": strings.Repeat("x", bytes)} }
	many := make([]store.PathInfo, 100_000)
	for i := range many {
		many[i].Path = storetest.Path(fmt.Sprintf("a-path-of-the-usual-length-%d", i))
	}
	config := func(labels map[string]string) error {
		_, err := Config(someLayers, "linux/amd64", time.Time{}, v1.ImageConfig{Labels: labels})
		return err
	}
	start := func(env, cmd int) error {
		container := v1.ImageConfig{Env: []string{strings.Repeat("x", env)}, Cmd: []string{strings.Repeat("x", cmd)}}
		_, err := Config(someLayers, "linux/amd64", time.Time{}, container)
		return err
	}
	manifest := func(annotations map[string]string) error {
		_, err := NewManifest([]byte("{}"), someLayers, v1.MediaTypeImageLayerGzip, annotations)
		return err
	}
	_, index := NewIndex([]PlatformManifest{{Platform: "linux/amd64"}}, label(MaxDocument))
	for _, test := range []struct {
		name string
		err  error
		want string // empty: it is not refused
	}{
		{"a config", config(label(MaxDocument)), "the config of this image would have 4194"},
		{"an environment", start(1<<20-1, 1), "the environment and command of this image would have 10485"},
		{"an environment that may be", start(1<<20-3, 1), ""},
		{"a config that may be", config(label(MaxDocument - 10_000)), ""},
		{"a manifest", manifest(label(MaxDocument)), "the manifest of this image would have 4194"},
		{"a manifest that may be", manifest(label(MaxDocument - 10_000)), ""},
		{"an index", index, "the manifest of this image would have 4194"},
		{"a config with many paths, before they are packed", CheckDocuments(many, nil), "the config of this image would have"},
		{
			"a manifest with a long list, before its layers are packed", CheckDocuments(many[:10], label(MaxDocument)),
			"the manifest of this image would have",
		},
		{"documents with little in them", CheckDocuments(many[:10], label(1000)), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			refused := (*TooLargeError)(nil)
			if errors.As(test.err, &refused) != (test.want != "") {
				t.Fatalf("the error is %v", test.err)
			}
			if refused != nil && (!strings.Contains(refused.Error(), test.want) ||
				!strings.Contains(refused.Error(), fmt.Sprint(refused.Most, " are allowed"))) {
				t.Errorf("the error is %v, want %q", refused, test.want)
			}
		})
	}
}

func TestImageConfig(t *testing.T) {
	dated := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("elsewhere", 3600))
	for _, test := range []struct {
		name, platform string
		date           time.Time
		created        string
		want           v1.Platform
	}{
		{
			"no date", "linux/amd64", time.Time{}, "1970-01-01T00:00:01Z",
			v1.Platform{OS: "linux", Architecture: "amd64"},
		},
		{
			"the revision's date, in UTC", "linux/arm/v7", dated, "2026-01-02T02:04:05Z",
			v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, err := Config(someLayers, test.platform, test.date, v1.ImageConfig{Cmd: []string{"/bin/a"}})
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
				image.History[1].CreatedBy != "nix: "+string(storetest.Path("a-1"))+" "+string(storetest.Path("b-1")) {
				t.Errorf("history %+v, want the store paths of each layer", image.History)
			}
		})
	}
}

// programs is a root directory with these in /bin.
type programs []string

func (p programs) HasProgram(name string) bool { return slices.Contains(p, name) }
func (p programs) Notes() []string             { return nil }

func (p programs) Environment() map[string]string {
	if slices.Contains(p, "certs") {
		return map[string]string{"SSL_CERT_FILE": "/etc/ssl/certs/ca-bundle.crt"}
	}
	return map[string]string{}
}

func (programs) User(spec string) (string, error) {
	if spec != "nobody" {
		return "", errors.New("which is missing")
	}
	return "65534:65534", nil
}

func TestContainer(t *testing.T) {
	user, ghost, dir := "nobody", "ghost", "/srv"
	server := &Settings{
		Entrypoint: []string{"/bin/serve"}, Env: map[string]string{"PORT": "80", "PATH": "/bin"},
		User: &user, WorkingDir: &dir, Labels: map[string]string{"kind": "server"},
		ExposedPorts: []string{"80/tcp"},
	}
	all := programs{"bash", "git", "tool", "serve", "certs"}
	const path, certs = "PATH=" + searchPath, "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt"
	labels := func(more ...string) map[string]string {
		all := map[string]string{v1.AnnotationSource: "path:set", v1.AnnotationRevision: "0123"}
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	ports := map[string]struct{}{"80/tcp": {}}
	git := Package{Asked: true, Pname: "git"}
	runs := func(program string) v1.ImageConfig {
		return v1.ImageConfig{Env: []string{path, certs}, Cmd: []string{program}, Labels: labels()}
	}
	nothing := v1.ImageConfig{Env: []string{path, certs}, Labels: labels()}
	for _, test := range []struct {
		name     string
		shell    bool
		packages []Package
		root     programs
		want     v1.ImageConfig
	}{
		{"one package runs", false, []Package{git}, all, runs("/bin/git")},
		{
			"its main program goes first", false,
			[]Package{{Asked: true, Pname: "git", MainProgram: "tool"}}, all, runs("/bin/tool"),
		},
		{
			"a main program that is not there does not", false,
			[]Package{{Asked: true, Pname: "x", MainProgram: "../etc/x"}}, all, nothing,
		},
		{"what is included does not count", false, []Package{git, {Pname: "tool"}}, all, runs("/bin/git")},
		{"two outputs are of one", false, []Package{git, {Asked: true, Pname: "git"}}, all, runs("/bin/git")},
		{
			"of two packages none", false,
			[]Package{git, {Asked: true, Pname: "tool", Derivation: "tool.drv"}}, all, nothing,
		},
		{"a shell", true, []Package{git}, all, runs("/bin/bash")},
		{
			"another shell, no certificates", true, nil, programs{"sh"},
			v1.ImageConfig{Env: []string{path}, Cmd: []string{"/bin/sh"}, Labels: labels()},
		},
		{
			"a variable of a package counts more than where the root directory has something", false,
			[]Package{{Asked: true, Settings: &Settings{Env: map[string]string{"SSL_CERT_FILE": "/own.crt"}}}}, all,
			v1.ImageConfig{Env: []string{path, "SSL_CERT_FILE=/own.crt"}, Labels: labels()},
		},
		{
			"a package says how it runs", false,
			[]Package{{Asked: true, Pname: "serve", Settings: server}}, all,
			v1.ImageConfig{
				Env: []string{"PATH=/bin", "PORT=80", certs}, Entrypoint: []string{"/bin/serve"},
				User: "65534:65534", WorkingDir: "/srv", ExposedPorts: ports, Labels: labels("kind", "server"),
			},
		},
		{
			"but not how others do", false,
			[]Package{git, {Asked: true, Pname: "serve", Derivation: "serve.drv", Settings: server}}, all,
			v1.ImageConfig{
				Env: []string{"PATH=/bin", "PORT=80", certs}, ExposedPorts: ports,
				Labels: labels("kind", "server"),
			},
		},
		{
			"nor what it was built from", false,
			[]Package{{Asked: true, Settings: &Settings{Labels: map[string]string{v1.AnnotationRevision: "another"}}}},
			all, nothing,
		},
		{
			"what is included may add, below what was asked for", false,
			[]Package{
				{Asked: true, Pname: "git", Settings: &Settings{Env: map[string]string{"A": "git"}, Labels: map[string]string{"a": "git"}}},
				{Derivation: "other.drv", Settings: &Settings{
					Entrypoint: []string{"/bin/other"}, Cmd: []string{"x"}, WorkingDir: &dir, User: &ghost,
					Env: map[string]string{"A": "other", "B": "other"}, ExposedPorts: []string{"80/tcp"},
					Labels: map[string]string{"a": "other", "b": "other"},
				}},
			},
			all,
			v1.ImageConfig{
				Env: []string{"A=git", "B=other", path, certs}, Cmd: []string{"/bin/git"}, Labels: labels("a", "git", "b", "other"),
			},
		},
		{
			"no user", false, []Package{{Asked: true, Settings: &Settings{User: new(string)}}}, all, nothing,
		},
		{
			"the user of one among others does not count", false,
			[]Package{git, {Asked: true, Derivation: "ghost.drv", Settings: &Settings{User: &ghost}}}, all, nothing,
		},
		{"nor does it in a shell", true, []Package{{Asked: true, Settings: &Settings{User: &ghost}}}, all, runs("/bin/bash")},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Container(test.shell, test.packages, test.root, labels())
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
	packages := []Package{{Name: "set.ghost", Asked: true, Settings: &Settings{User: &ghost}}}
	_, err := Container(false, packages, all, labels())
	const want = `passthru.image.user of set.ghost is "ghost", which is missing: `
	if fault := (*UserError)(nil); !errors.As(err, &fault) || !strings.HasPrefix(fault.Error(), want) {
		t.Errorf("the error is %v, want %s…", err, want)
	}
}

func TestProvenance(t *testing.T) {
	packages := []Package{
		{Name: "git", Version: "2.39", Paths: []store.Path{storetest.Path("git-2.39")}},
		{Name: "git.dev", Version: "2.39", Paths: []store.Path{storetest.Path("git-2.39-dev")}},
		{Name: "perlPackages.JSON", Paths: []store.Path{storetest.Path("json"), storetest.Path("json-man")}},
	}
	got, err := Provenance("shell/git/perlpackages.json", packages, someOrigin)
	if err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprintf(
		`[{"name":"git","version":"2.39","paths":[%q]},{"name":"git.dev","version":"2.39","paths":[%q]},`+
			`{"name":"perlPackages.JSON","paths":[%q,%q]}]`,
		storetest.Path("git-2.39"), storetest.Path("git-2.39-dev"), storetest.Path("json"), storetest.Path("json-man"),
	)
	want := map[string]string{
		v1.AnnotationSource: "path:set", v1.AnnotationRevision: "0123",
		v1.AnnotationTitle: "shell/git/perlpackages.json", "io.github.nixery-registry.packages": list,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// What was asked for is a label where clients can take it. No package can say something else
// instead.
func TestLongLabels(t *testing.T) {
	for _, test := range []struct {
		name  string
		bytes int // of the name and the value
		want  bool
	}{
		{"the longest", 4096, true},
		{"one byte more", 4097, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			list := strings.Repeat("x", test.bytes-len(AnnotationPackages))
			forged := &Settings{Labels: map[string]string{AnnotationPackages: "forged", "own": "own"}}
			container, err := Container(
				false, []Package{{Asked: true, Settings: forged}}, programs{},
				map[string]string{AnnotationPackages: list, v1.AnnotationTitle: "a"},
			)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"own": "own", v1.AnnotationTitle: "a"}
			if test.want {
				want[AnnotationPackages] = list
			}
			if !maps.Equal(container.Labels, want) {
				t.Errorf("the labels are %.200v, want %.200v", container.Labels, want)
			}
		})
	}
}
