package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// languageSet is testdata/languages over the demo set.
func languageSet(t testing.TB) string {
	t.Helper()
	dir := CopyDemoPackages(t)
	set := filepath.Join(dir, "default.nix")
	if err := os.Rename(set, filepath.Join(dir, "demo.nix")); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(filepath.Join("testdata", "languages", "default.nix"), set); err != nil {
		t.Fatal(err)
	}
	return dir
}

// languageImages import a module with three levels of dependencies, where nixpkgs has modules.
var languageImages = []struct {
	name, image string
	command     []string
	variable    string // the one about modules
}{
	{
		"python", "python3/python3packages.greet",
		[]string{"python3", "-c", "import greet, os; print(greet.TEXT); assert 'NIX_PYTHONPATH' not in os.environ"},
		"NIX_PYTHONPATH=/lib/python3.11/site-packages",
	},
	{
		"a virtual environment", "python3/python3packages.greet",
		[]string{"python3", "-c", `
import greet, os, subprocess, sys
subprocess.run([os.path.realpath(sys.executable), "-m", "venv", "--without-pip", "/tmp/venv"], check=True)
there = subprocess.run(["/tmp/venv/bin/python", "-c", "import greet"], capture_output=True, text=True).stderr
print(greet.TEXT if "No module named 'greet'" in there else there)`},
		"NIX_PYTHONPATH=/lib/python3.11/site-packages",
	},
	{
		"another python", "debianpython/python3packages.greet",
		[]string{"python3", "-c", "import greet; print(greet.TEXT)"}, "PYTHONPATH=/lib/python3.11/site-packages",
	},
	{
		"perl", "perl/perlpackages.greet", []string{"perl", "-Mgreet", "-e", "print greet::text"},
		"PERL5LIB=/lib/perl5/site_perl",
	},
	{
		"ruby", "ruby/rubypackages.greet", []string{"ruby", "-e", "require 'greet'; puts TEXT"},
		"GEM_PATH=/lib/ruby/gems/3.1.0:",
	},
	{
		"node", "nodejs/nodemodules.greet", []string{"node", "-e", "console.log(require('greet').text)"},
		"NODE_PATH=/lib/node_modules",
	},
	{
		"lua", "lua/luapackages.greet", []string{"lua", "-e", "print((require('greet')))"},
		"LUA_PATH=/share/lua/5.4/?.lua;/share/lua/5.4/?/init.lua;;",
	},
}

// TestLanguages runs them, from a store and without one.
func TestLanguages(t *testing.T) {
	t.Parallel()
	set := languageSet(t)
	ordinary := StartRegistry(t, "nix.packages.path="+set)
	cache := newBinaryCache(t)
	r := NewRegistry(t, cache.storeless("nix.packages.path="+set)...)
	withoutStore(t, r)
	r.Start()
	for _, test := range languageImages {
		t.Run(test.name, func(t *testing.T) {
			for _, engine := range Engines {
				ref := ordinary.Ref(test.image)
				engine.Pull(t, ref)
				run := []string{"--network", "none", ref}
				if got := engine.Run(t, append(run, test.command...)...); got != "good day" {
					t.Errorf("%s wrote %q", engine.Name, got)
				}
			}
			image := ordinary.Pull(t, test.image)
			ordinary.CheckWhole(t, image)
			config := imageConfig(t, ordinary, image)
			var variables []string
			for _, variable := range config.Config.Env {
				if !strings.HasPrefix(variable, "PATH=") && !strings.HasPrefix(variable, "SSL_CERT_FILE=") {
					variables = append(variables, variable)
				}
			}
			if got := strings.Join(variables, " "); got != test.variable {
				t.Errorf("the variables are %s, want %s", got, test.variable)
			}
			root, err := ordinary.layer(t.Context(), image.Name, image.Layers[0], config.RootFS.DiffIDs[0])
			if err != nil {
				t.Fatal(err)
			}
			if root["bin/greet"].Header == nil || root["bin/polite"].Header != nil || root["bin/words"].Header != nil {
				t.Error("the program of greet is missing, or those of the modules that it needs are there")
			}

			cache.add(t, "", "none", ordinary.paths(t, image)...)
			cache.requests("")
			if got := r.Pull(t, test.image); got.Digest != image.Digest {
				t.Errorf("it is %s, out of a store it is %s", got.Digest, image.Digest)
			}
		})
	}

	// The listings of what modules need are records: a root layer that is new needs no archive.
	r.Stop() // what is in memory is lost
	r.Start()
	cache.requests("")
	r.Pull(t, "perl/perlpackages.greet/perlpackages.polite") // the closure of an image above
	if archives := cache.requests(`^/nar/`); len(archives) > 0 {
		t.Errorf("archives were fetched again: %q", archives)
	}
}

// TestLanguagesOfTwoVersions asks for an interpreter and a module of another version.
func TestLanguagesOfTwoVersions(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+languageSet(t))
	image := r.Pull(t, "python3/python312packages.greet")
	const want = "/bin/python3 finds the modules for python3.11, not those for python3.12"
	if got := imageConfig(t, r, image).Config.Labels["io.github.nixery-registry.notes"]; got != want {
		t.Errorf("the label is %q, want %q", got, want)
	}
	if !strings.Contains(r.Log(), want) {
		t.Error("the log does not say so")
	}
}

// TestTerminal has a program look for a terminal that a package describes, by the variable and
// without it.
func TestTerminal(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+languageSet(t))
	ref := r.Ref("python3/data")
	for _, engine := range Engines {
		engine.Pull(t, ref)
		for _, variable := range []string{"TERMINFO_DIRS=/share/terminfo:", "TERMINFO_DIRS="} {
			run := []string{"--network", "none", "--env", variable, ref, "python3", "-c"}
			got := engine.Run(t, append(run, "import curses; curses.setupterm('mine'); print(curses.tigetnum('cols'))")...)
			if got != "80" {
				t.Errorf("%s with %s: the terminal has %q columns", engine.Name, variable, got)
			}
		}
	}
	config := imageConfig(t, r, r.Pull(t, "python3/data"))
	if !slices.Contains(config.Config.Env, "TERMINFO_DIRS=/share/terminfo:") {
		t.Errorf("the variables are %q", config.Config.Env)
	}
}

func imageConfig(t testing.TB, r *Registry, image Image) (config v1.Image) {
	t.Helper()
	if err := json.Unmarshal(r.Blob(t, image, image.Config), &config); err != nil {
		t.Fatal(err)
	}
	return config
}
