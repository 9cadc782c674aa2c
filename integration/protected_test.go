package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// TestProtectedRegistry runs a registry with a secret as a user of its own, with another process of
// that user beside it, such as a build is in a container. It can't read the secret, and evaluations
// are as isolated as they are for root.
func TestProtectedRegistry(t *testing.T) {
	t.Parallel()
	Needs(t, "setpriv")
	needs.Root(t, "to become another user")
	as := []string{"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"}
	if _, _, err := TryExec(t.Context(), as[0], append(as[1:], "unshare", "--user", "--net", "true")...); err != nil {
		needs.Missing(t, "user namespaces are not permitted: %v", err)
	}
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	r := NewRegistry(t, newBinaryCache(t).storeless("nix.build.hold=300s")...)
	r.Env = []string{"AWS_SECRET_ACCESS_KEY=CANARY"}
	r.Program = filepath.Join(r.Dir, "registry")
	Write(t, r.Program, fmt.Sprintf("#!/bin/sh\nexec %s '%s' \"$@\"\n", strings.Join(as, " "), program))
	if err := os.Chmod(r.Program, 0o755); err != nil {
		t.Fatal(err)
	}
	Exec(t, "chown", "-R", "1000:1000", r.Dir)
	r.Start()

	process := fmt.Sprintf("/proc/%d/", r.cmd.Process.Pid)
	if secrets, err := os.ReadFile(process + "environ"); err != nil || !strings.Contains(string(secrets), "CANARY") {
		t.Fatalf("root does not find the secret: %v", err)
	}
	for _, file := range []string{"environ", "mem", "maps"} {
		text, _, err := TryExec(t.Context(), as[0], append(as[1:], "head", "-c", "4096", process+file)...)
		if err == nil || text != "" {
			t.Errorf("another process of the registry's user reads %s: %q", file, text)
		}
	}
	r.answer(t, "hello")
	r.AwaitLog("looking for /nix/store/", 1) // of which an evaluation has told
	if strings.Contains(r.Log(), "for untrusted work") {
		t.Error("evaluations are not isolated")
	}
}
