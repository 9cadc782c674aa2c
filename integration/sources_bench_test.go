package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkSources pulls the manifest of shell/git from each kind of source: from a registry that
// has seen nothing yet, again, and after the source has moved to another revision that gives the
// same packages. Nix has built all packages before. It makes the table of docs/evaluation.md:
//
//	go test ./integration -run '^$' -bench Sources -benchtime 5x
func BenchmarkSources(b *testing.B) {
	for _, source := range []struct {
		name string
		// prepare returns what nix.packages is for the package set in dir, and what it takes beside
		// an edit of dir for the source to move.
		prepare func(b *testing.B, dir string) (setting string, move func())
	}{
		{
			"path",
			func(_ *testing.B, dir string) (string, func()) { return fmt.Sprintf(`{"path": %q}`, dir), func() {} },
		},
		{"git", func(b *testing.B, dir string) (string, func()) {
			commit := func() {
				for _, args := range [][]string{
					{"init", "--quiet", "--initial-branch=main"}, {"add", "."},
					{"-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "a"},
				} {
					git := exec.CommandContext(b.Context(), "git", append([]string{"-C", dir}, args...)...)
					if out, err := git.CombinedOutput(); err != nil {
						b.Fatalf("git %q: %v: %s", args, err, out)
					}
				}
			}
			commit()
			return fmt.Sprintf(`{"git": {"url": "file://%s"}}`, dir), commit
		}},
		{"channel", func(b *testing.B, dir string) (string, func()) {
			revision := 0
			var archive []byte
			move := func() {
				revision++
				written := httptest.NewRecorder()
				if err := writeArchive(written, dir, "nixpkgs"); err != nil {
					b.Fatal(err)
				}
				archive = written.Body.Bytes()
			}
			move()
			mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
				if strings.HasSuffix(request.URL.Path, "git-revision") {
					fmt.Fprintf(w, "%040d\n", revision)
				} else {
					w.Write(archive)
				}
			}))
			b.Cleanup(mirror.Close)
			return fmt.Sprintf(`{"channel": "nixos-26.05", "channels": %q, "archives": %q}`, mirror.URL, mirror.URL), move
		}},
	} {
		b.Run(source.name, func(b *testing.B) {
			steps := []string{"first", "again", "moved"}
			took, programs := make(map[string]time.Duration), make(map[string]int)
			for b.Loop() {
				dir := CopyDemoPackages(b)
				setting, move := source.prepare(b, dir)
				r := NewRegistry(b, "nix.packages="+setting, "nix.refresh=1ns", "nix.build.hold=300s")
				r.count("git")
				r.Start()
				time.Sleep(2 * time.Second) // files that have just changed are read twice
				for _, step := range steps {
					if step == "moved" {
						Write(b, filepath.Join(dir, "moved"), "")
						move()
					}
					before, begun := len(r.Programs()), time.Now()
					r.Pull(b, "shell/git")
					took[step] += time.Since(begun)
					programs[step] += len(r.Programs()) - before
				}
				r.Stop()
				if err := os.RemoveAll(filepath.Join(r.Dir, "cache")); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(0, "ns/op") // preparations, for the most part
			for _, step := range steps {
				b.ReportMetric(float64(took[step].Milliseconds())/float64(b.N), step+"-ms")
				b.ReportMetric(float64(programs[step])/float64(b.N), step+"-programs")
			}
		})
	}
}
