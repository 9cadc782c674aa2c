package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// An answer is the status of a pull and, of one that fails, the message.
type answer struct {
	status  int
	message string
}

func (a answer) String() string { return strings.TrimSpace(fmt.Sprintf("%d %s", a.status, a.message)) }

// TestDifferences pulls packages that fail in every way. The answers are those in
// testdata/differences/nix-VERSION.txt, which UPDATE=1 writes. A Nix that is newer than all of them
// is compared with the newest, and what differs is printed.
func TestDifferences(t *testing.T) {
	t.Parallel()
	packages := freshSet(t, "differences")
	Write(t, filepath.Join(packages, "broken.nix"), "{ a = ; }\n")
	Write(t, filepath.Join(packages, "undefined.nix"), "{ a = b; }.a\n")
	r := StartRegistry(
		t, "nix.packages.path="+packages, "nix.build.timeout=2s", "nix.build.concurrency=4",
		"nix.nix.evaluationtime=5s", "nix.build.perclient=200",
	)

	names := strings.Fields(Exec(t, "nix-instantiate", "--eval", "--json", "--expr",
		fmt.Sprintf(`builtins.concatStringsSep " " (builtins.attrNames (import %s { }))`, packages)))
	names = strings.Fields(strings.Trim(strings.Join(names, " "), `"`))
	answers := make(map[string]answer)
	var mu sync.Mutex // guards answers
	var clients sync.WaitGroup
	queue := make(chan string)
	for range 4 {
		clients.Go(func() {
			for name := range queue {
				got := r.answer(t, name)
				mu.Lock()
				answers[name] = got
				mu.Unlock()
			}
		})
	}
	for _, name := range names {
		queue <- name
	}
	close(queue)
	clients.Wait()

	version := nixVersion(t)
	file := filepath.Join("testdata", "differences", "nix-"+version+".txt")
	if os.Getenv("UPDATE") != "" {
		var lines strings.Builder
		for _, name := range slices.Sorted(maps.Keys(answers)) {
			fmt.Fprintf(&lines, "%s %v\n", name, answers[name])
		}
		Write(t, file, lines.String())
	}
	recorded := recordedAnswers(t)
	want, known := recorded[version]
	newest := newestRecorded(t)
	report := t.Errorf
	if !known && compareVersions(version, newest) > 0 {
		want, report = recorded[newest], t.Logf
		t.Logf("Nix %s is newer than %s, whose answers are known. What differs:", version, newest)
	}
	for _, name := range names {
		if got := answers[name]; got != want[name] {
			report("%s with Nix %s:\n got %v\nwant %v", name, version, got, want[name])
		}
	}
}

// TestDifferencesAreOfWords compares what is recorded: every version gives the same status to
// clients, but where it says why.
func TestDifferencesAreOfWords(t *testing.T) {
	recorded := recordedAnswers(t)
	statuses := make(map[string]map[int][]string)
	for version, answers := range recorded {
		for name, answer := range answers {
			if statuses[name] == nil {
				statuses[name] = make(map[int][]string)
			}
			statuses[name][answer.status] = append(statuses[name][answer.status], version)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(statuses)) {
		if len(statuses[name]) > 1 {
			t.Errorf("the status of %s depends on the version of Nix: %v", name, statuses[name])
		}
	}
}

// answer pulls a name. It leaves out parts of the message that are never the same.
func (r *Registry) answer(t testing.TB, name string) answer {
	status, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil {
		t.Errorf("pulling %s: %v", name, err)
	}
	if status == http.StatusOK {
		return answer{status: status}
	}
	var said struct{ Errors []struct{ Message string } }
	if err := json.Unmarshal(body, &said); err != nil || len(said.Errors) != 1 {
		t.Errorf("pulling %s: %d %s %v", name, status, body, err)
		return answer{status: status}
	}
	message := regexp.MustCompile(`[a-z0-9]{32}-`).ReplaceAllString(said.Errors[0].Message, "HASH-")
	message = regexp.MustCompile(`after \d+ ms`).ReplaceAllString(message, "after N ms")
	message = regexp.MustCompile(` \(build [a-z0-9]{8}\)$`).ReplaceAllString(message, "")
	message, denied := strings.CutPrefix(message, "not a login problem: ")
	if denied != (status == http.StatusForbidden) {
		t.Errorf("pulling %s: %d says of logins: %t", name, status, denied)
	}
	if strings.Contains(message, r.Dir) {
		t.Errorf("pulling %s: the message has a path of the host: %s", name, message)
	}
	return answer{status, strings.ReplaceAll(message, "\n", " ↵ ")}
}

// recordedAnswers are the known ones, by version of Nix and name.
func recordedAnswers(t testing.TB) map[string]map[string]answer {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "differences", "nix-*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no answers are recorded: %v", err)
	}
	recorded := make(map[string]map[string]answer)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		answers := make(map[string]answer)
		for line := range strings.Lines(string(content)) {
			name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			status, message, _ := strings.Cut(rest, " ")
			code, err := strconv.Atoi(status)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			answers[name] = answer{code, message}
		}
		version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "nix-"), ".txt")
		recorded[version] = answers
	}
	return recorded
}

// newestRecorded is the newest version of Nix whose answers are known.
func newestRecorded(t testing.TB) string {
	t.Helper()
	return slices.MaxFunc(slices.Collect(maps.Keys(recordedAnswers(t))), compareVersions)
}

// nixVersion is the version of the Nix that registries use.
func nixVersion(t testing.TB) string {
	t.Helper()
	words := strings.Fields(Exec(t, "nix-instantiate", "--version"))
	return words[len(words)-1]
}

// compareVersions orders versions by their numbers.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, _ := strconv.Atoi(as[i])
		y, _ := strconv.Atoi(bs[i])
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(as), len(bs))
}

// versionOf is the version of the Nix of a Debian suite. Sid's may be newer than all that is known.
func versionOf(t testing.TB, suite string) (version string, known bool) {
	t.Helper()
	words := strings.Fields(Exec(t, filepath.Join(shared.root, "scripts", "with-nix.sh"), suite, "nix", "--version"))
	version = words[len(words)-1]
	if suite == "sid" && compareVersions(version, newestRecorded(t)) > 0 {
		t.Logf("Nix %s is newer than all that is known", version) // scripts/test-nix-versions.sh shows what differs
		return version, false
	}
	return version, true
}

// TestImagesOfEveryNix makes images of the demo set with the Nix of each Debian suite, over a store
// of its own. They are the same, bit for bit.
func TestImagesOfEveryNix(t *testing.T) {
	t.Parallel()
	Needs(t, "unshare", "mount", "patchelf", "apt-get")
	images := []string{"shell/git/htop", "python3/redis", "nginx", "files-demo"}
	pull := func(t *testing.T, r *Registry) map[string]digest.Digest {
		t.Helper()
		digests := make(map[string]digest.Digest)
		for _, name := range images {
			image := r.Pull(t, name)
			r.CheckWhole(t, image)
			digests[name] = image.Digest
		}
		return digests
	}
	want := pull(t, StartRegistry(t))
	versions := make(map[string]bool)
	for _, suite := range []string{"bookworm", "trixie", "sid"} {
		t.Run(suite, func(t *testing.T) {
			version, known := versionOf(t, suite)
			versions[version] = true
			if !known {
				return
			}
			r := NewRegistry(t)
			r.useNix(suite)
			r.Start()
			if got := pull(t, r); !maps.Equal(got, want) {
				t.Errorf("the images are %v, want %v", got, want)
			}
			if !strings.Contains(r.Log(), "building images with Nix "+version) {
				t.Errorf("they were not made with Nix %s", version)
			}
		})
	}
	if len(versions) != 3 {
		t.Errorf("they were made with %v, want three versions", versions)
	}
}
