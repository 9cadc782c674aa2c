package eval

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// aPackage is an expression for a derivation that needs what is given.
func aPackage(name, needs string) string {
	return `derivation { name = "` + name + `-1"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ ` + needs + ` ]; }`
}

// flakeOf makes a directory with files that everybody can read, by name.
func flakeOf(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = openDir(t, "flake")
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644),
		); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// nixFlake runs a command of Nix's own flakes. These tests compare with its results.
func nixFlake(t *testing.T, args ...string) string {
	t.Helper()
	command := exec.CommandContext(
		t.Context(),
		"nix",
		append(
			[]string{"--extra-experimental-features", "nix-command flakes", "--option", "use-registries", "false"},
			args...)...)
	home := t.TempDir()
	command.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("nix %q: %v: %s", args, err, &stderr)
	}
	return string(output)
}

// TestFlakeLikeNix compares the derivations of a flake that has inputs of all kinds with those that
// Nix makes of it.
func TestFlakeLikeNix(t *testing.T) {
	archive, requests := remoteSet(t)
	repository, directory := remoteRepository(t)
	elsewhere := flakeOf(
		t,
		map[string]string{
			"flake.nix": `{ outputs = { self }: { text = "${self}/text"; here = ./.; }; }`,
			"text":      "elsewhere",
		},
	)
	dir := flakeOf(t, map[string]string{
		"text":            "text",
		"part/flake.nix":  `{ outputs = inputs: { text = ./text; all = inputs.self; }; }`,
		"part/text":       "a part",
		"lib/default.nix": "x: x",
		"flake.nix": `{
  inputs = {
    part.url = "path:./part";
    elsewhere.url = "path:` + elsewhere + `";
    archive = { url = "` + archive + `"; flake = false; };
    repository = { url = "git+` + repository + `?ref=main"; flake = false; };
    again.follows = "elsewhere";
  };
  outputs = { self, part, elsewhere, archive, repository, again }: {
    packages.x86_64-linux = {
      self = ` + aPackage("self", `self "${self}/text" (self + "/text") ./text ./.`) + `;
      part = ` + aPackage("part", `part.text part.all`) + `;
      elsewhere = ` + aPackage("elsewhere", `elsewhere.text elsewhere.here again.text`) + `;
      archive = ` + aPackage("archive", `archive (import archive { system = "x86_64-linux"; }).inner`) + `;
      repository = ` + aPackage("repository", `repository "${repository}/file" repository.rev repository.shortRev`) + `;
      imports = import "${self}/lib" ` + aPackage("imports", `archive.narHash repository.lastModifiedDate elsewhere.lastModifiedDate (toString elsewhere.lastModified)`) + `;
    };
  };
}`,
	})
	nixFlake(t, "flake", "lock", "path:"+dir)
	names := []string{"self", "part", "elsewhere", "archive", "repository", "imports"}
	want := make(map[string]string)
	for _, name := range names {
		want[name] = nixFlake(t, "eval", "--raw", "path:"+dir+"#packages.x86_64-linux."+name+".drvPath")
	}

	target := openDir(t, "target")
	e, runner := newEvaluator(t, Options{
		ScratchDir:  openDir(t, "scratch"),
		AllowedURIs: []string{archive, directory, "path:" + elsewhere},
		CPU:         20 * time.Second,
		Store:       "local?root=" + target,
	})
	source := Source{Path: dir}
	results, err := e.Evaluate(t.Context(), source, system, names)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if p := results[name].Package; p == nil || string(p.Derivation) != want[name] {
			t.Errorf("%s is %+v %+v, Nix has %s", name, p, results[name].Failure, want[name])
		}
	}
	fetched, started := requests.Load(), runner.Started()
	if _, err := e.Evaluate(t.Context(), source, system, names); err != nil {
		t.Error(err)
	}
	if requests.Load() != fetched || runner.Started()-started != 1 {
		t.Errorf(
			"asked again: %d requests, %d processes, want 0 and 1", requests.Load()-fetched,
			runner.Started()-started,
		)
	}
	if _, err := e.Instantiate(t.Context(), source, system, names); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := os.Stat(target + want[name]); err != nil {
			t.Error(err)
		}
	}

	all, err := e.Walk(t.Context(), source, system, []string{""})
	if whole := all[""].Failure; err != nil || whole == nil ||
		!slices.Equal(whole.Attributes, slices.Sorted(slices.Values(names))) {
		t.Errorf("the whole flake is %+v, %v", whole, err)
	}

	// What is on this machine needs no network.
	e, _ = newEvaluator(t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{"path:" + elsewhere}})
	results, err = e.Evaluate(t.Context(), source, system, []string{"elsewhere"})
	if p := results["elsewhere"].Package; err != nil || p == nil || string(p.Derivation) != want["elsewhere"] {
		t.Errorf("elsewhere is %+v, %v", results["elsewhere"], err)
	}
	if persistent, err := e.persistent(source); err != nil || persistent.exists() {
		t.Errorf("for a directory of this machine there was a network: %v", err)
	}

	// Where only some of it may be fetched, what needs the rest says so.
	e, _ = newEvaluator(
		t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{archive}, CPU: 20 * time.Second},
	)
	results, err = e.Evaluate(t.Context(), source, system, names)
	if err != nil {
		t.Fatal(err)
	}
	for name, refused := range map[string]string{
		"self": "", "part": "", "archive": "", "repository": repository, "elsewhere": elsewhere,
	} {
		failure := results[name].Failure
		if (failure != nil) != (refused != "") ||
			failure != nil && !strings.Contains(failure.Message, "forbidden in restricted mode") {
			t.Errorf("%s is %+v %+v", name, results[name].Package, failure)
		}
	}
	if f := results["repository"].Failure; f == nil || results["repository"].Cacheable() {
		t.Errorf("%+v is kept, though other settings may allow it", f)
	}
}

// TestFlakeSiblings evaluates flakes whose inputs are beside them and below. Lock files of Nix 2.8
// can't express that.
func TestFlakeSiblings(t *testing.T) {
	dir := openDir(t, "flake")
	if err := os.CopyFS(dir, os.DirFS("testdata/siblings")); err != nil {
		t.Fatal(err)
	}
	// Of nix eval --raw path:testdata/siblings#packages.x86_64-linux.uses.drvPath, with Nix 2.26.3
	// and 2.34.8.
	const want = "/nix/store/n3d4k1j57f4np57w9z3k5p8d0g99xjiy-uses-a-and-b.drv"
	e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch")})
	results, err := e.Evaluate(t.Context(), Source{Path: dir, Shares: "the operator's"}, system, []string{"uses"})
	if err != nil {
		t.Fatal(err)
	}
	if p := results["uses"].Package; p == nil || p.Derivation != want {
		t.Errorf("%+v %+v, want %s", p, results["uses"].Failure, want)
	}
}

// TestFlakeFile evaluates a flake with an input that is a file. Nix 2.8 has none of that type.
func TestFlakeFile(t *testing.T) {
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "key = 1\n") }),
	)
	t.Cleanup(server.Close)
	for _, test := range []struct{ name, hash, want, refused string }{
		// As Nix 2.26.3 and 2.34.8 lock and evaluate it.
		{
			"as locked", "sha256-7t17Kb/XuZmspfM6tgAXYH/TQ4F9OZ8msbOZz/yl3C0=",
			"/nix/store/navj402clq2b5pmyjfg2dgfbd8yxvilc-uses-1.drv", "",
		},
		{"another", "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "", "mismatch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := flakeOf(t, map[string]string{
				"flake.nix": `{ outputs = { self, file }: { packages.x86_64-linux.uses = ` + aPackage(
					"uses", `file "${file}" file.narHash`,
				) + `; }; }`,
				"flake.lock": `{"version": 7, "root": "root", "nodes": {"root": {"inputs": {"file": "file"}}, "file": {"flake": false, "locked": {
					"type": "file", "url": "` + server.URL + `/x.toml", "narHash": "` + test.hash + `"}}}}`,
			})
			e, _ := newEvaluator(
				t,
				Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{server.URL}, CPU: 20 * time.Second},
			)
			results, err := e.Evaluate(t.Context(), Source{Path: dir}, system, []string{"uses"})
			if err != nil {
				t.Fatal(err)
			}
			switch got := results["uses"]; {
			case got.Package != nil && string(got.Package.Derivation) != test.want:
				t.Errorf("the derivation is %s, want %s", got.Package.Derivation, test.want)
			case got.Failure != nil && (test.refused == "" || !strings.Contains(got.Failure.Message, test.refused)):
				t.Errorf("%+v, want %s %s", got.Failure, test.want, test.refused)
			}
		})
	}
}

func TestFlakes(t *testing.T) {
	simple := func(outputs string) map[string]string {
		return map[string]string{"flake.nix": "{ outputs = { self }: " + outputs + "; }"}
	}
	with := func(files map[string]string, name, text string) map[string]string {
		files[name] = text
		return files
	}
	lock := func(locked string) string {
		return `{"version": 7, "root": "root", "nodes": {"root": {"inputs": {"dep": "dep"}}, "dep": {"locked": {` + locked + `}}}}`
	}
	dependent := func(locked string) map[string]string {
		return map[string]string{
			"flake.nix": `{ outputs = { self, dep }: { packages.x86_64-linux.hello = ` + aPackage(
				"hello", "dep",
			) + `; }; }`,
			"flake.lock": lock(locked),
		}
	}
	hello, other := aPackage("hello", ""), aPackage("other", "")
	date := time.Date(2024, 2, 29, 23, 59, 7, 0, time.UTC)
	commit := strings.Repeat("ab", 20)
	for _, test := range []struct {
		name  string
		files map[string]string
		pname string // of hello
		want  string // in the error of the set, or of hello
	}{
		{"packages", simple("{ packages.x86_64-linux.hello = " + hello + "; }"), "hello", ""},
		{"legacyPackages", simple("{ legacyPackages.x86_64-linux.hello = " + hello + "; }"), "hello", ""},
		{
			"legacyPackages go first",
			simple("{ packages.x86_64-linux.hello = " + other + "; legacyPackages.x86_64-linux.hello = " + hello + "; }"),
			"hello", "",
		},
		{
			"packages go second",
			simple("{ packages.x86_64-linux.hello = " + hello + "; legacyPackages.x86_64-linux.other = " + other + "; }"),
			"hello", "",
		},
		{
			"a default.nix goes first", with(simple("{ }"), "default.nix", "{ ... }: { hello = "+hello+"; }"),
			"hello", "",
		},
		{"what a flake knows of itself", simple(`{ packages.x86_64-linux.hello = assert self.rev == "` + commit + `"; assert self.shortRev == "abababa";
			assert self.lastModified == 1709251147; assert self.lastModifiedDate == "20240229235907"; assert self.inputs == { }; assert self.packages ? x86_64-linux; ` + hello + "; }"), "hello", ""},
		{"inputs that are not used", with(map[string]string{"flake.nix": `{ outputs = { self, ... }: { packages.x86_64-linux.hello = ` + hello + `; }; }`},
			"flake.lock", lock(`"type": "tarball", "url": "https://127.0.0.1:1/x", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`)), "hello", ""},
		{
			"a part without a hash",
			with(dependent(`"type": "path", "path": "./sub"`), "sub/flake.nix", "{ outputs = _: { }; }"),
			"hello", "",
		},
		{
			"a part that has changed since it was locked",
			with(
				dependent(`"type": "path", "path": "./sub", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`),
				"sub/flake.nix", "{ outputs = _: { }; }",
			),
			"hello", "",
		},

		{
			"another system", simple("{ packages.vax-linux.hello = " + hello + "; }"), "",
			"neither legacyPackages.x86_64-linux nor packages.x86_64-linux",
		},
		{
			"no lock file",
			map[string]string{"flake.nix": `{ inputs.dep.url = "https://example.org/x.tar.gz"; outputs = { self, dep }: { }; }`},
			"", "needs: dep. Run `nix flake lock`",
		},
		{
			"an input that only outputs ask for",
			map[string]string{"flake.nix": `{ outputs = { self, nixpkgs }: { }; }`}, "",
			"needs: nixpkgs. Run `nix flake lock`",
		},
		{
			"not locked", dependent(`"type": "tarball", "url": "https://example.org/x.tar.gz"`), "",
			"dep is not locked by a narHash: run `nix flake lock`",
		},
		{
			"not locked to a commit", dependent(`"type": "git", "url": "https://example.org/x.git"`), "",
			"dep is not locked to a commit: run `nix flake lock`",
		},
		{
			"a registry's name", dependent(`"type": "indirect", "id": "nixpkgs"`), "",
			"dep is of type indirect, which is not supported",
		},
		{"outside", dependent(`"type": "path", "path": "../x"`), "", "dep is outside of the flake, at ../x"},
		{
			"outside behind a part", dependent(`"type": "path", "path": "./sub/../../x"`), "",
			"dep is outside of the flake",
		},
		{
			"a file of the host",
			dependent(`"type": "path", "path": "/etc", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`),
			"", "forbidden in restricted mode",
		},
		{
			"an archive of the host",
			dependent(`"type": "tarball", "url": "file:///etc/x.tar.gz", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`),
			"", "forbidden in restricted mode",
		},
		{
			"a file of the host, by URL",
			dependent(`"type": "file", "url": "file:///etc/passwd", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`),
			"", "forbidden in restricted mode",
		},
		{
			"a file that is not locked", dependent(`"type": "file", "url": "https://example.org/x.toml"`), "",
			"dep is not locked by a narHash",
		},
		{
			"GitHub",
			dependent(`"type": "github", "owner": "o", "repo": "r", "rev": "` + commit + `", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`),
			"", "'https://github.com/o/r/archive/" + commit + ".tar.gz' is forbidden",
		},
		{
			"GitLab",
			dependent(`"type": "gitlab", "host": "git.example.org", "owner": "o", "repo": "r", "rev": "` + commit + `", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`),
			"",
			"'https://git.example.org/api/v4/projects/o%2Fr/repository/archive.tar.gz?sha=" + commit + "' is forbidden",
		},
		{
			"an option for git",
			dependent(`"type": "git", "url": "--upload-pack=touch /tmp/x", "rev": "` + commit + `"`), "",
			"--upload-pack",
		},
		{
			"a lock of the future",
			with(
				simple("{ packages.x86_64-linux.hello = "+hello+"; }"), "flake.lock",
				`{"version": 99, "root": "root", "nodes": {"root": {}}}`,
			),
			"", "flake.lock is of version 99",
		},
		{
			"a lock that is none",
			with(simple("{ packages.x86_64-linux.hello = "+hello+"; }"), "flake.lock", `<html>`), "",
			"parse error",
		},
		{
			"no outputs", map[string]string{"flake.nix": "{ }"}, "",
			"the flake.nix of the package set has no function outputs",
		},
		{
			"no flake", map[string]string{"flake.nix": "[ ]"}, "",
			"the flake.nix of the package set has no function outputs",
		},
		{"a syntax error", map[string]string{"flake.nix": "{\n  outputs = ;\n}"}, "", "unexpected ';'"},
		{
			"reads the host", simple("{ packages.x86_64-linux.hello = import /etc/passwd; }"), "",
			"forbidden in restricted mode",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := flakeOf(t, test.files)
			scratch := openDir(t, "scratch")
			e, _ := newEvaluator(t, Options{ScratchDir: scratch})
			results, err := e.Evaluate(
				t.Context(), Source{Path: dir, Commit: commit, Date: date}, system, []string{"hello", "none"},
			)
			message := ""
			switch refused := (*SourceError)(nil); {
			case errors.As(err, &refused):
				message = refused.Message
			case err != nil:
				t.Fatal(err)
			case results["hello"].Failure != nil:
				message = results["hello"].Failure.Message
			case results["hello"].Package.Pname != test.pname || results["none"].Failure == nil || results["none"].Failure.Kind != NotFound:
				t.Errorf("%+v", results)
			}
			if (message == "") != (test.want == "") || !strings.Contains(message, test.want) {
				t.Errorf("error %q, want %q", message, test.want)
			}
			if strings.Contains(message, dir) || strings.Contains(message, scratch) {
				t.Errorf("%q shows the host", message)
			}
		})
	}
}
