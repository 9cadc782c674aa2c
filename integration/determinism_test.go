package integration

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Two registries that were asked the same things in the same order give the same images, and so
// does one that has forgotten all that it had in memory.
func TestDeterminism(t *testing.T) {
	names := []string{"hello", "shell/git", "htop/git", "git/htop", "files-demo/7zz/upperpackages.hlint"}
	pull := func(r *Registry) []digest.Digest {
		var digests []digest.Digest
		for _, name := range names {
			digests = append(digests, r.Pull(t, name).Digest)
		}
		return digests
	}
	first, second := StartRegistry(t), StartRegistry(t)
	want := pull(first)
	if want[2] != want[3] {
		t.Errorf("%s is %s, %s is %s", names[2], want[2], names[3], want[3])
	}
	compare := func(which string, got []digest.Digest) {
		t.Helper()
		for i, name := range names {
			if got[i] != want[i] {
				t.Errorf("%s: %s is %s, want %s", which, name, got[i], want[i])
			}
		}
	}
	compare("a second registry", pull(second))

	first.Stop()
	first.Start()
	started := len(first.Programs())
	compare("after a restart", pull(first))
	if programs := first.Programs()[started:]; len(programs) > 0 {
		t.Errorf("after a restart, the stored images took the programs %q", programs)
	}
}

// No program of Nix is started for an image that was made before, nor for one whose packages are
// all known.
func TestProgramsPerImage(t *testing.T) {
	r := StartRegistry(t)
	for _, test := range []struct {
		name    string
		image   string
		restart bool
		most    int
	}{
		// Evaluations take one for the names, and one more for derivations that have to be written
		// to build them.
		{name: "first image", image: "shell/htop", most: 3},
		{name: "same again", image: "shell/htop", most: 0},
		{name: "other packages", image: "jq/tree", most: 3},
		{name: "new combination of known packages", image: "shell/jq/tree/htop", most: 0},
		{name: "same again after a restart", image: "shell/htop", restart: true, most: 0},
		{name: "new combination after a restart", image: "jq/htop", restart: true, most: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.restart {
				r.Stop()
				r.Start()
			}
			before := r.Programs()
			r.CheckWhole(t, r.Pull(t, test.image))
			programs := r.Programs()[len(before):]
			t.Logf(
				"%s: %d processes: %s; %d since the registry's first start", test.image, len(programs),
				strings.Join(programs, " "), len(before)+len(programs),
			)
			if len(programs) > test.most {
				t.Errorf("%d processes, want at most %d", len(programs), test.most)
			}
			if test.most > 0 && len(programs) == 0 {
				t.Error("no processes even for what is new: are they counted?")
			}
		})
	}
}
