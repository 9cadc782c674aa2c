package nixbuilder

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// Every setting that results depend on is in the variant, so that its change is seen; the defaults
// are in none.
func TestSettings(t *testing.T) {
	standard := func() Options { return Options{AllowedURIs: []string{"https://"}} }
	if settings := standard().settings(); len(settings) > 0 {
		t.Errorf("the defaults are the variant %q", settings)
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*Options){
		"submodules": func(o *Options) { o.Packages.Git.Submodules = true },
		"submodules of nixpath": func(o *Options) {
			o.Packages.NixPath = map[string]Packages{"nixpkgs": {Git: source.GitOptions{Submodules: true}}}
		},
		"submodules of another": func(o *Options) {
			o.Packages.NixPath = map[string]Packages{"other": {Git: source.GitOptions{Submodules: true}}}
		},
		"import":         func(o *Options) { o.ImportFromDerivation = true },
		"config":         func(o *Options) { o.Packages.Config = `{"allowUnfree":true}` },
		"another config": func(o *Options) { o.Packages.Config = `{"allowUnfree":false}` },
		"no URIs":        func(o *Options) { o.AllowedURIs = nil },
		"more URIs":      func(o *Options) { o.AllowedURIs = []string{"path:/srv/", "https://"} },
	} {
		options := standard()
		change(&options)
		id := options.settings().ID()
		if other, taken := seen[id]; taken || id == "" {
			t.Errorf("%s has the variant %q, as %q has", name, id, other)
		}
		seen[id] = name
	}
}

func TestWantedFirst(t *testing.T) {
	b := &Builder{options: Options{
		Include: []string{"cacert", "git"}, Shell: []string{"nano", "bash"}, CI: []string{"sed"},
		Foreign: []string{"glibc.out"},
	}}
	got := b.wantedFirst(
		[]names.Request{{Packages: []string{"git", "zlib"}}, {Packages: []string{"bash"}, Shell: true}},
	)
	want := []string{"bash", "cacert", "ci", "git", "glibc.out", "nano", "sed", "shell", "zlib"}
	if !slices.Equal(got, want) {
		t.Errorf("wantedFirst = %q, want %q", got, want)
	}
}

// As many revisions of a directory can be had again as the operator wants, and no more.
func TestPathKeep(t *testing.T) {
	set := t.TempDir()
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(set, "default.nix"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("{ }")
	opened, err := Packages{Path: set, PathKeep: 2}.openSet(nil, source.NewWatches(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var revisions []string
	for _, content := range []string{"{ a = 1; }", "{ b = 22; }", "{ c = 333; }"} {
		write(content)
		pinned, err := opened.Pin(t.Context(), source.Latest)
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, pinned.Revision)
	}
	for i, revision := range revisions {
		_, err := opened.Pin(t.Context(), revision)
		if gone := errors.Is(err, source.ErrUnknownTag); gone != (i == 0) {
			t.Errorf("revision %d of three, of which two stay: %v", i+1, err)
		}
	}
}
