package integration

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// In somebody else's registry, all that the middleware needs is a blank import and its stanza.
func TestForeignMain(t *testing.T) {
	program := filepath.Join(Dir(t), "foreign")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/foreign")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	r := StartRegistry(t)
	own := r.Pull(t, "hello")
	r.Stop()

	r.Program = program
	r.Start()
	if again := r.Pull(t, "hello"); again.Digest != own.Digest {
		t.Errorf("what is stored is served as %s, want %s", again.Digest, own.Digest)
	}
	tree := r.Pull(t, "tree")
	r.Verify(t, tree, Closure(t, DemoPackages(t), append([]string{"tree"}, included...)...))
	r.Stop()

	r.Program = ""
	r.Start()
	if again := r.Pull(t, "tree"); again.Digest != tree.Digest {
		t.Errorf("what the other registry stored is served as %s, want %s", again.Digest, tree.Digest)
	}
}
