package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// tooNew is a package set that wants another Nix than there is, in the words of nixpkgs.
const tooNew = `
if builtins.pathExists ./mended then import ./packages.nix else abort ''

  This version of Nixpkgs requires an implementation of Nix with the following features:
  - ` + "`builtins.nixVersion`" + ` reports at least 99.1

  You are evaluating with Nix ${builtins.nixVersion}, please upgrade:

  - If you are running NixOS, ` + "`nixos-rebuild'" + ` can be used to upgrade your system.
''
`

// TestSetupFaults serves package sets that the operator must mend: the log and --check say how, and
// clients are told to come back.
func TestSetupFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, set string
		settings  []string
		fault     string
		mend      func(t *testing.T, packages string)
	}{
		{
			name: "a Nix that is too old", set: tooNew, fault: "it needs Nix 99.1 or later, and this is Nix ",
			mend: func(t *testing.T, packages string) { Write(t, filepath.Join(packages, "mended"), "") },
		},
		{
			name: "a config that is not taken", set: "{ system, ... }: import ./packages.nix { inherit system; }",
			settings: []string{`nix.packages.config={"allowUnfree": true}`},
			fault:    "packages.config of this registry is set, and the package set takes no argument config",
			mend: func(t *testing.T, packages string) {
				const taken = "{ system, config }: if config == { allowUnfree = true; } then import ./packages.nix { inherit system; } else throw \"no\""
				Write(t, filepath.Join(packages, "default.nix"), taken)
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t)
			err := os.Rename(filepath.Join(packages, "default.nix"), filepath.Join(packages, "packages.nix"))
			if err != nil {
				t.Fatal(err)
			}
			Write(t, filepath.Join(packages, "default.nix"), test.set)
			r := NewRegistry(t, append(test.settings, "nix.packages.path="+packages)...)
			if _, stderr, err := r.checkConfig(); err == nil || !strings.Contains(stderr, test.fault) {
				t.Errorf("--check ends with %v: %s, want %q", err, stderr, test.fault)
			}
			r.Start()
			r.AwaitLog("the package set can't be used", 1)
			if !strings.Contains(r.Log(), test.fault) {
				t.Errorf("the log lacks %q", test.fault)
			}
			status, header, body, err := r.Get(t.Context(), "/v2/quick/manifests/latest", v1.MediaTypeImageManifest)
			if err != nil || status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" ||
				!strings.Contains(string(body), test.fault) ||
				len(body) > 400 {
				t.Errorf("the answer is %d, %v: %s", status, err, body)
			}
			test.mend(t, packages)
			r.CheckWhole(t, r.Pull(t, "quick"))
			if stdout, stderr, err := r.checkConfig(); err != nil || stderr != "" ||
				!strings.Contains(stdout, ": builds are ") {
				t.Errorf("when it is mended, --check ends with %v: %s%s", err, stdout, stderr)
			}
		})
	}
}

// It is no fault if something can't be found out.
func TestCheckWithoutRemote(t *testing.T) {
	t.Parallel()
	r := NewRegistry(
		t,
		`nix.packages={"channel": "nixos-26.05", "channels": "http://127.0.0.1:1", "archives": "http://127.0.0.1:1"}`,
	)
	if _, stderr, err := r.checkConfig(); err != nil ||
		!strings.Contains(stderr, "the package set was not tried out: ") {
		t.Errorf("--check ends with %v: %s", err, stderr)
	}
}

// A set that reads what is built is no fault if that is on, although only building would tell. It
// is one if that is off.
func TestCheckOfReadingSets(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	Write(t, filepath.Join(packages, "fresh.nix"), Read(t, filepath.Join(packages, "default.nix")))
	Write(
		t, filepath.Join(packages, "default.nix"),
		`{ system, ... }: import (import ./fresh.nix { inherit system; }).quick`,
	)
	for _, on := range []bool{false, true} {
		r := NewRegistry(t, "nix.packages.path="+packages, fmt.Sprintf("nix.nix.importfromderivation=%t", on))
		want := "needs import from derivation"
		if on {
			want = "the package set was not tried out: it may have to read what is built"
		}
		if _, stderr, err := r.checkConfig(); (err == nil) != on || !strings.Contains(stderr, want) {
			t.Errorf("where it is on (%t), --check ends with %v: %s, want %q", on, err, stderr, want)
		}
	}
}

// TestChannelIsFollowed moves a channel: what was pulled last is evaluated, of the new revision,
// before anybody asks.
func TestChannelIsFollowed(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	mirror := serveChannel(t, packages, strings.Repeat("a", 40))
	r := StartRegistry(t, "nix.packages="+mirror.packages(), "nix.refresh=1s")
	r.Pull(t, "quick/sleeps.s0")
	mirror.moveTo(strings.Repeat("b", 40))
	r.AwaitLog("the package set is channel:nixos-26.05 at "+strings.Repeat("b", 40), 1)
	evaluations := func() int { return strings.Count(strings.Join(r.Programs(), " "), "nix-instantiate") }
	before := evaluations()
	if got := r.Pull(t, "quick/sleeps.s0").Annotations[v1.AnnotationRevision]; got != strings.Repeat("b", 40) ||
		evaluations() != before {
		t.Errorf("it is of %s, after %d more evaluations", got, evaluations()-before)
	}
}

// TestEditsOfTheStanza restarts a registry with other settings. Revisions change with settings that
// results depend on. Settings of how images are made change only tags that move, not those of
// revisions.
func TestEditsOfTheStanza(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	Write(t, filepath.Join(packages, "packages.nix"), Read(t, filepath.Join(packages, "default.nix")))
	Write(t, filepath.Join(packages, "default.nix"), `{ system, config ? { } }:
let set = import ./packages.nix { inherit system; }; in
set // { chosen = if config.allowUnfree or false then set.quick else set.reader; }`)
	r := StartRegistry(t, "nix.packages.path="+packages)
	first := r.Pull(t, "chosen")
	revision := first.Annotations[v1.AnnotationRevision]
	again := func(settings ...string) Image {
		t.Helper()
		r.Stop()
		r.Configure(append(settings, "nix.packages.path="+packages)...)
		r.Start()
		return r.Pull(t, "chosen")
	}
	if image := again(); image.Digest != first.Digest {
		t.Errorf("with the same stanza, the image is %s, was %s", image.Digest, first.Digest)
	}

	config := again(`nix.packages.config={"allowUnfree": true}`)
	if got := config.Annotations[v1.AnnotationRevision]; config.Digest == first.Digest ||
		!strings.HasPrefix(got, revision+"-") ||
		len(got) != len(revision)+13 {
		t.Errorf("with a config, the image is %s at %s, was %s at %s", config.Digest, got, first.Digest, revision)
	}
	if r.PullTag(t, "chosen", config.Annotations[v1.AnnotationRevision]).Digest != config.Digest {
		t.Error("the tag of its revision is another image")
	}
	uris := again(`nix.nix.alloweduris=["https://example.org/"]`)
	if uris.Annotations[v1.AnnotationRevision] == revision {
		t.Error("what may be fetched is not in the revision")
	}

	formed := again(`nix.include=["writer"]`)
	if formed.Digest == first.Digest || formed.Annotations[v1.AnnotationRevision] != revision {
		t.Errorf(
			"with another include, the image is %s at %s", formed.Digest,
			formed.Annotations[v1.AnnotationRevision],
		)
	}
	if old := r.PullTag(t, "chosen", revision); old.Digest != first.Digest {
		t.Errorf("the tag of the revision is %s, was %s", old.Digest, first.Digest)
	}
	if r.Pull(t, "chosen").Digest != formed.Digest {
		t.Error("latest is made again by each pull")
	}
}

// checkConfig runs `registry serve --check` on the registry's configuration.
func (r *Registry) checkConfig() (stdout, stderr string, err error) {
	r.t.Helper()
	if _, err := shared.binary(); err != nil {
		r.t.Fatal(err)
	}
	return TryExec(r.t.Context(), "registry", "serve", "--check", r.ConfigFile())
}
