package integration

import (
	"syscall"
	"testing"
)

// TestStoppedDaemons pulls an image that nobody has while the Nix daemons that the registry keeps say
// nothing. It starts others.
func TestStoppedDaemons(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	r.Pull(t, "quick")
	if stopped := r.signalPrograms(t, "nix-daemon", syscall.SIGSTOP); stopped == 0 {
		t.Fatal("no Nix daemon was waiting for work")
	}
	r.CheckWhole(t, r.Pull(t, "sleeps.s0"))
}
