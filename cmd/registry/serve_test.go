package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Nothing is traced that nobody reads, whatever the registry sets up when it is made.
func TestQuietTracing(t *testing.T) {
	for _, test := range []struct {
		name     string
		level    configuration.Loglevel
		exporter string // OTEL_TRACES_EXPORTER
		quiet    bool
	}{
		{"usual", "info", "", true},
		{"in a log that has room for it", "debug", "", false},
		{"asked for", "info", "console", false},
		{"not asked for", "info", "none", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_EXPORTER", test.exporter) // to be set back at the end
			if test.exporter == "" {
				if err := os.Unsetenv("OTEL_TRACES_EXPORTER"); err != nil {
					t.Fatal(err)
				}
			}
			otel.SetTracerProvider(sdktrace.NewTracerProvider())
			again, err := quietTracing(test.level)
			if err != nil {
				t.Fatal(err)
			}
			check := func(when string) {
				t.Helper()
				if _, quiet := otel.GetTracerProvider().(noop.TracerProvider); quiet != test.quiet {
					t.Errorf("%s, traces are off: %t", when, quiet)
				}
			}
			check("before the registry is made")
			otel.SetTracerProvider(sdktrace.NewTracerProvider())
			again()
			check("after that")
		})
	}
}

// A file is checked as a whole: what the registry ignores, what it would find out when it listens, and
// the stanza. The version comes first, as nothing else is known without it.
func TestCheckOfTheWholeFile(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"nothing wrong, and nothing of ours", "version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: ':5000'}\n", nil},
		{"empty", "", []string{"version: write 0.1"}},
		{"another version", "version: 1\nstorage: {inmemory: {}}\n", []string{"version: write 0.1"}},
		{"two drivers", "version: 0.1\nstorage: {inmemory: {}, filesystem: {}}\n", []string{"must provide exactly one"}},
		{
			"everywhere",
			"version: 0.1\nstorage: {inmemory: {}}\nhttp: {adr: ':5000'}\n" +
				"middleware: {repository: [{name: nix, options: {packages: {path: /nonexistent/set}, bulid: {}}}, {name: nixx}]}\n",
			[]string{
				"line 3: http.adr: unknown key: did you mean addr?", "http.addr: missing",
				`middleware.repository[1].name: there is no repository middleware "nixx"`,
				"middleware.repository[nix].options.bulid: unknown key: did you mean build?",
				"middleware.repository[nix].options.packages.path: stat /nonexistent/set",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yml")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			command := serveCommand()
			command.SetArgs([]string{"--check", file})
			var lines []string
			if err := command.Execute(); err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			isLine := func(line, want string) bool { return strings.HasPrefix(line, file+": "+want) }
			if !slices.EqualFunc(lines, test.want, isLine) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestAsServed(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", ""},
		{"serve", "serve"},
		{"serve /etc/config.yml", "serve /etc/config.yml"},
		{"/etc/config.yml", "serve /etc/config.yml"},
		{"config.yaml --check", "serve config.yaml --check"},
		{"garbage-collect config.yml", "garbage-collect config.yml"},
		{"--version", "--version"},
	} {
		if got := strings.Join(asServed(strings.Fields(test.args)), " "); got != test.want {
			t.Errorf("registry %s is registry %s, want %s", test.args, got, test.want)
		}
	}
}
