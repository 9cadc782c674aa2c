package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// TestRun measures small images: that the tables are whole, not what is in them.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short")
	}
	for _, tool := range []string{"nix-daemon", "git", "pigz", "zstd", "wrk"} {
		needs.Tool(t, tool)
	}
	demo := filepath.Join("..", "..")
	program, set := filepath.Join(demo, "examples/debian/make.sh"), filepath.Join(demo, "build/demo")
	if out, err := exec.CommandContext(t.Context(), program, set).CombinedOutput(); err != nil {
		t.Fatalf("making the demo package set: %v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var report strings.Builder
	names := []string{"hello", "shell/hello/less"}
	o := options{names: names, pulls: names, runs: 1, turns: 1, peers: []peer{{"empty", emptyRegistry(t)}}, dir: dir}
	if err := run(t.Context(), &report, o, "cold,substituted,combination,again,many,stored,memory", nil); err != nil {
		t.Fatalf("%v\n%s", err, &report)
	}
	for _, want := range []string{
		`(?m)^\| \d+ paths, [\d.]+ MB \| \d+ \| [\d.]+ MB \| .hello. \|$`,
		`(?m)^\| \d+ paths, .* \| zstd \| .* \| tar, zstd -1 -T2 \| .* \| [\d.]+ of zstd -1 \|$`,
		`(?m)^\| \d+ paths, .* \| tar, sha256sum \| `,
		`(?m)^(\| \d+ paths, .* \| xz \| nothing |Not measured: )`,
		`(?m)^\| combination: programs of Nix started, .* \| ≤ 0 \| 0 \| reached \|$`,
		`(?m)^\| packages in git, after .refresh. \| `,
		`(?m)^\| 200 clients \| .* \| .* \| 1 \| `, // built once for all of them
		`(?m)^\| manifest by digest \| stock registry \| `,
		`(?m)^\| manifest by tag, the revision \| empty \| [1-9]`,
		`(?m)^\| small layer, .* \| bare file server \| `,
		`(?m)^\| \d+ layers, .* \| 1, as containerd does \| stock registry \| `,
		`(?m)^\| \d+ layers, .* \| 50, as docker does \| empty \| `,
		`(?m)^\| this registry \| .* MB \| .* MB \| .* MB \| `,
		`(?m)^\| 8 at a time \| gzip \| `,
	} {
		if !regexp.MustCompile(want).MatchString(report.String()) {
			t.Errorf("the report has no %s", want)
		}
	}
	if t.Failed() {
		t.Log(report.String())
	}
}

// emptyRegistry serves a registry that has nothing, and returns its URL.
func emptyRegistry(t *testing.T) string {
	config := &configuration.Configuration{Storage: configuration.Storage{"inmemory": nil}}
	config.HTTP.Secret = "no secret"
	s := httptest.NewServer(handlers.NewApp(t.Context(), config))
	t.Cleanup(s.Close)
	return s.URL
}

func TestParsePeers(t *testing.T) {
	for _, test := range []struct {
		list string
		want []peer // nil: an error
	}{
		{list: "", want: []peer{}},
		{list: "zot=http://127.0.0.1:8080", want: []peer{{"zot", "http://127.0.0.1:8080"}}},
		{
			list: "a=http://127.0.0.1:1/,b=https://registry.example",
			want: []peer{{"a", "http://127.0.0.1:1"}, {"b", "https://registry.example"}},
		},
		{list: "http://127.0.0.1:8080"},
		{list: "zot="},
		{list: "zot=127.0.0.1:8080"},
		{list: "=http://127.0.0.1:8080"},
		{list: "zot=http://127.0.0.1:1,"},
		{list: "zot=http://127.0.0.1:1,zot=http://127.0.0.1:2"},
	} {
		got, err := parsePeers(test.list)
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("peers %q: %v, %v; want %v", test.list, got, err, test.want)
		}
	}
}

func TestNearest(t *testing.T) {
	layers := []v1.Descriptor{{Size: 100}, {Size: 9}, {Size: 14}, {Size: 12}}
	for size, want := range map[int64]int64{0: 9, 10: 9, 13: 14, 12: 12, 1000: 100} {
		if got := nearest(layers, size); got.Size != want {
			t.Errorf("nearest to %d: %d, want %d", size, got.Size, want)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		list string
		want []string
	}{
		{list: "", want: []string{"cold", "substituted", "combination", "again", "many", "stored", "memory", "layers"}},
		{list: "memory,cold", want: []string{"cold", "memory"}},
		{list: "cold,warm"},
		{list: "cold,"},
	} {
		got, err := choose(test.list, false)
		var names []string
		for _, g := range got {
			names = append(names, g.name)
		}
		if !slices.Equal(names, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("choosing %q: %q, %v; want %q", test.list, names, err, test.want)
		}
	}
}

// TestOldNix asks for what a set that is too new for Nix gives: one line.
func TestOldNix(t *testing.T) {
	needs.Tool(t, "nix-instantiate")
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	set := filepath.Join(dir, "set")
	for name, content := range map[string]string{
		"default.nix":                     `abort "This version of Nixpkgs requires Nix >= 99.1, please upgrade"`,
		"pkgs/top-level/all-packages.nix": "{ }",
	} {
		file := filepath.Join(set, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &bench{options: options{runs: 1, dir: dir, set: set}, out: new(strings.Builder)}
	err = b.nixpkgs(t.Context())
	if want := "it needs Nix 99.1 or later"; err == nil || !strings.Contains(err.Error(), want) ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("%v, want one line with %q", err, want)
	}
}

func TestParseWrk(t *testing.T) {
	const report = `Running 2s test @ http://127.0.0.1:41753/v2/hello/manifests/latest
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.05ms    2.61ms  33.27ms   84.21%
    Req/Sec     4.13k   298.70     4.61k    75.00%
  Latency Distribution
     50%    3.47ms
     75%    4.95ms
     90%    6.89ms
     99%   13.60ms
  8222 requests in 2.00s, 18.52MB read
`
	for _, test := range []struct {
		name, report string
		want         throughput // zero: an error
	}{
		{
			"whole", report + "Requests/sec:   4109.53\nTransfer/sec:      9.26MB\n",
			throughput{perSecond: 4109.53, p99: 13600 * time.Microsecond, requests: 8222},
		},
		{
			"slow", strings.Replace(report, "13.60ms", " 1.04s ", 1) + "Requests/sec:     29.96\n",
			throughput{perSecond: 29.96, p99: 1040 * time.Millisecond, requests: 8222},
		},
		{"cut", report, throughput{}},
		{
			"no answers",
			report + "  Socket errors: connect 0, read 16, write 0, timeout 0\nRequests/sec:   4109.53\n",
			throughput{},
		},
		{"errors", report + "  Non-2xx or 3xx responses: 8222\nRequests/sec:   4109.53\n", throughput{}},
		{"empty", "", throughput{}},
	} {
		got, err := parseWrk(test.report)
		if got != test.want || (err == nil) != (test.want != throughput{}) {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, test.want)
		}
	}
}

func TestNearly(t *testing.T) {
	want := []string{"shell/a/b", "shell/a", "shell/b", "shell/a"}
	if got := nearly("shell/a/b", 4); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values []int
		part   float64
		want   int
	}{
		{[]int{7}, 0.5, 7},
		{[]int{3, 1, 2}, 0.5, 2},
		{[]int{3, 1, 2}, 0.99, 3},
		{[]int{3, 1, 2}, 1, 3},
		{[]int{4, 3, 2, 1}, 0, 1},
	} {
		if got := quantile(test.values, test.part); got != test.want {
			t.Errorf("quantile %v of %v is %d, want %d", test.part, test.values, got, test.want)
		}
	}
}

// TestDroppingClient has bodies of all sizes between two answers that are looked at.
func TestDroppingClient(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Write(bytes.Repeat([]byte("0123456789"), size/10+1)[:size])
	}))
	defer s.Close()
	dropping := &server{url: s.URL, client: newDroppingClient()}
	for _, size := range []int{0, 10, dropSize - 1, dropSize, dropSize + 1, 10 * dropSize, 10*dropSize + 7} {
		n, err := dropping.drop(t.Context(), "/"+strconv.Itoa(size), make([]byte, 4*dropSize))
		if err != nil || n != int64(size) {
			t.Errorf("dropping %d: %d, %v", size, n, err)
		}
		_, body, err := dropping.get(t.Context(), "/20")
		if want := "01234567890123456789"; err != nil || string(body) != want {
			t.Errorf("after %d: %q, %v; want %q", size, body, err, want)
		}
	}
}
