package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// logCollected is in the log's line of a collection that did its work.
const logCollected = "after a collection"

// size is how many bytes the files in the store have.
func (s *ownStore) size(t testing.TB) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(s.Dir, "store"), func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				bytes += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // it is being deleted
			err = nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestMaxStore builds more than nix.maxstore. The store comes down below it, the images that are
// pulled meanwhile are as they should be, and so is one whose packages were collected.
func TestMaxStore(t *testing.T) {
	t.Parallel()
	const most = 16_000_000
	store := newOwnStore(t)
	r := NewRegistry(t, "nix.packages.path="+freshSet(t, "heavy"), fmt.Sprint("nix.nix.maxstore=", most))
	store.use(t, r)
	r.Start()
	first := r.Pull(t, "heavy0")
	var pulls sync.WaitGroup
	for client := range 3 {
		pulls.Go(func() {
			for i := range 8 {
				n := 1 + client*8 + i
				r.CheckWhole(t, r.Pull(t, fmt.Sprintf("heavy%d/heavy%d", n, n+30)))
			}
		})
	}
	pulls.Wait()
	Eventually(t, time.Minute, "the store is below its limit", func() bool { return store.size(t) <= most })
	r.AwaitLog(logCollected, 1)
	if again := r.Pull(t, "heavy0"); again.Digest != first.Digest {
		t.Errorf("the first image is %s, and was %s", again.Digest, first.Digest)
	}
	r.CheckWhole(t, r.Pull(t, "heavy0/heavy1/heavy2"))
	t.Logf("%d collections; once more: %d", strings.Count(r.Log(), logCollected), strings.Count(r.Log(), "once more"))
}

// TestCollectedMeanwhile has Nix collect all that it can after each of its programs that has ended, and
// all the time while images are built. Every image comes, those of sets that read what is built, too.
func TestCollectedMeanwhile(t *testing.T) {
	t.Parallel()
	store, packages := newOwnStore(t), freshSet(t, "heavy")
	set := filepath.Join(packages, "default.nix")
	Write(t, filepath.Join(packages, "heavy.nix"), Read(t, set))
	Write(t, set, `args:
let
  heavy = import ./heavy.nix args;
  read = name: builtins.readFile (derivation (heavy.${name}.drvAttrs // {
    name = "read-${name}";
    args = [ "sh" "-euc" "echo read >$out" ];
  }));
in
builtins.mapAttrs (name: package: if read name == "" then null else package) heavy`)
	r := NewRegistry(t, "nix.packages.path="+packages, "nix.nix.importfromderivation=true")
	store.use(t, r)
	for _, name := range []string{"nix", "nix-instantiate"} {
		program := filepath.Join(r.Dir, "bin", name)
		counted := strings.Replace(Read(t, program), "exec ", "", 1)
		// Evaluations are another user's, and have no store.
		const collect = "code=$?\n[ \"$(id -u)\" != 0 ] || env -i PATH=\"$PATH\" nix-store --gc >/dev/null 2>&1\nexit $code\n"
		Write(t, program, counted+collect)
	}
	r.Start()
	done := make(chan struct{})
	var collecting, pulls sync.WaitGroup
	collecting.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				store.run(t, "nix-store", "--gc")
			}
		}
	})
	for client := range 3 {
		pulls.Go(func() {
			for i := range 2 {
				r.CheckWhole(t, r.Pull(t, fmt.Sprintf("heavy%d/heavy%d", client, 3+client+i)))
			}
		})
	}
	pulls.Wait()
	close(done)
	collecting.Wait()
}

// TestCollectionHangs stops a collection. It is given up, and builds that wait for it go on. One that
// fails is tried once more, as nobody knows what the collection has taken from it.
func TestCollectionHangs(t *testing.T) {
	t.Parallel()
	store := newOwnStore(t)
	garbage := Dir(t)
	for i := range 5000 {
		Write(t, filepath.Join(garbage, fmt.Sprint(i)), strings.Repeat("garbage ", 500))
	}
	store.run(t, "nix-store", "--add", garbage)
	r := NewRegistry(t, "nix.packages.path="+freshSet(t, "heavy"), "nix.nix.maxstore=10MB")
	store.use(t, r)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		Eventually(t, startTime, "a collection has begun and is stopped", func() bool {
			pid := store.collector(t)
			return pid > 0 && syscall.Kill(pid, syscall.SIGSTOP) == nil
		})
	}()
	r.Start()
	<-stopped
	failing := make(chan struct{})
	go func() {
		defer close(failing)
		_, _, _, _ = r.Get(t.Context(), "/v2/fails/manifests/latest", v1.MediaTypeImageManifest) // the log tells more
	}()
	r.CheckWhole(t, r.Pull(t, "heavy0"))
	<-failing
	r.AwaitLog("once more for fails, after a collection", 1)
	r.AwaitLog("collecting garbage: the Nix daemon does not answer", 1)
}

// collector is the process that collects in the store, which has its lock; 0: none does.
func (s *ownStore) collector(t testing.TB) int {
	t.Helper()
	info, err := os.Stat(filepath.Join(s.Dir, "var/nix/gc.lock"))
	if err != nil {
		return 0
	}
	inode := fmt.Sprint(":", info.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(Read(t, "/proc/locks")) {
		fields := strings.Fields(line) // 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF
		if len(fields) > 5 && fields[3] == "WRITE" && strings.HasSuffix(fields[5], inode) {
			pid, err := strconv.Atoi(fields[4])
			if err == nil {
				return pid
			}
		}
	}
	return 0
}
