package eval

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// A process that comes to no end and takes no processor is given up. That says nothing about its
// package either.
func TestEvaluationIsStuck(t *testing.T) {
	nix := filepath.Join(openDir(t, "nix"), "nix-instantiate")
	const stopped = `#!/bin/sh
case "$*" in
--version) echo "nix-instantiate (Nix) 2.8.0" ;;
*--argstr*) exec /bin/sleep 1000 ;;
esac
`
	if err := os.WriteFile(nix, []byte(stopped), 0o755); err != nil {
		t.Fatal(err)
	}
	set := openDir(t, "set")
	if err := os.WriteFile(filepath.Join(set, "default.nix"), []byte("{ }"), 0o644); err != nil {
		t.Fatal(err)
	}
	runner, _ := proc.New()
	e, err := New(t.Context(), runner, Options{NixInstantiate: nix, CPU: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Evaluate(t.Context(), Source{Path: set}, system, []string{"hello"})
	if !errors.Is(err, errStuck) {
		t.Errorf("the error is %v, want %v", err, errStuck)
	}
}

// A process that somebody ends says nothing about the package that it came to: an init system, for
// example, ends all processes of a registry that it stops.
func TestEvaluationIsEnded(t *testing.T) {
	real, err := exec.LookPath("nix-instantiate")
	if err != nil {
		t.Fatal(err)
	}
	set := openDir(t, "set")
	if err := os.WriteFile(filepath.Join(set, "default.nix"), []byte(`{ ... }: {
		slow = builtins.foldl' (a: n: a + builtins.stringLength (builtins.readFile ./default.nix) + n) 0
			(builtins.genList (n: n) 10000000);
	}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []string{"TERM", "INT", "HUP"} {
		t.Run(signal, func(t *testing.T) {
			t.Parallel()
			nix := filepath.Join(openDir(t, "nix"), "nix-instantiate")
			const ended = "#!/bin/sh\ncase \"$*\" in *--eval*) (sleep 1; kill -%s $$) & ;; esac\nexec '%s' \"$@\"\n"
			if err := os.WriteFile(nix, fmt.Appendf(nil, ended, signal, real), 0o755); err != nil {
				t.Fatal(err)
			}
			runner, _ := proc.New()
			e, err := New(t.Context(), runner, Options{NixInstantiate: nix, CPU: 20 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if results, err := e.Evaluate(t.Context(), Source{Path: set}, system, []string{"slow"}); err == nil {
				t.Errorf("there is a result: %+v", results["slow"].Failure)
			}
		})
	}
}
