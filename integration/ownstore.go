package integration

import (
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// An ownStore is an empty Nix store of a test's own at /nix, for the host's Nix. Its builds have users
// of their own, as Nix ends what else the users of its builds do.
type ownStore struct {
	// Dir is what is at /nix.
	Dir string
	// within is a program that runs a command where the store is at /nix.
	within string
}

// buildUsers is the number before those of the users of a store's builds: other stores have others.
func buildUsers(dir string) uint32 { return 1_100_000 + crc32.ChecksumIEEE([]byte(dir))%1_000_000*10 }

func newOwnStore(t testing.TB) *ownStore {
	t.Helper()
	Needs(t, "unshare", "mount", "nix-daemon")
	needs.Root(t, "to mount a Nix store")
	dir := Dir(t)
	s := &ownStore{Dir: filepath.Join(dir, "nix"), within: filepath.Join(dir, "within")}
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, s.within, fmt.Sprintf(`#!/bin/sh
# Runs a command with a Nix store of its own.
set -eu
if [ "${1-}" != inside ]; then exec unshare --mount --propagation private "$0" inside "$@"; fi
shift
cd '%s'
if [ ! -e passwd ]; then
  grep -v '^nixbld' /etc/passwd >passwd.new
  grep -v '^nixbld' /etc/group >group
  members=
  for n in 1 2 3 4; do
    echo "nixbld$n:x:$((%[2]d + n)):%[2]d::/var/empty:/usr/sbin/nologin" >>passwd.new
    members=$members${members:+,}nixbld$n
  done
  echo "nixbld:x:%[2]d:$members" >>group
  mv passwd.new passwd
fi
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mount --bind nix /nix
cd /
exec "$@"
`, dir, buildUsers(dir)))
	if err := os.Chmod(s.within, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), s.within, "true").CombinedOutput(); err != nil {
		needs.Missing(t, "mount namespaces are needed: %v %s", err, out)
	}
	return s
}

// use makes a registry use the store, from the next Start on.
func (s *ownStore) use(t testing.TB, r *Registry) {
	t.Helper()
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	r.Program = filepath.Join(r.Dir, "registry")
	Write(t, r.Program, fmt.Sprintf("#!/bin/sh\nexec '%s' '%s' \"$@\"\n", s.within, program))
	if err := os.Chmod(r.Program, 0o755); err != nil {
		t.Fatal(err)
	}
}

// run runs a command where the store is.
func (s *ownStore) run(t testing.TB, command ...string) string {
	t.Helper()
	return Exec(t, s.within, command...)
}
