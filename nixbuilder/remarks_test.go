package nixbuilder

import (
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// The texts are those of Nix 2.8.
func TestRemarks(t *testing.T) {
	drv, dependency := path("app-1.drv"), path("lib-1.drv")
	target, err := daemon.Outputs(drv, "out")
	if err != nil {
		t.Fatal(err)
	}
	helper := "builder for '" + string(drv) + "' failed with exit code 1;\nlast 1 log lines:\n> begun"
	for _, test := range []struct {
		name           string
		lines          []string
		failure        daemon.Result
		status         daemon.Status
		cause          string // what its message begins with
		unusable, lost int
	}{
		{
			name: "local", failure: daemon.Result{Status: daemon.PermanentFailure, Message: helper}, status: daemon.PermanentFailure, cause: helper,
			lines: []string{"error: builder for '" + string(dependency) + "' failed with exit code 3;"},
		},
		{
			name: "a dependency", failure: daemon.Result{Status: daemon.DependencyFailed, Message: "1 dependencies of derivation '" + string(drv) + "' failed to build"},
			lines:  []string{"error: builder for '" + string(dependency) + "' failed with exit code 3;", "       last 1 log lines:"},
			status: daemon.DependencyFailed, cause: "error: builder for '" + string(dependency) + "' failed with exit code 3",
		},
		{
			name: "on a remote builder", failure: daemon.Result{Status: daemon.MiscFailure, Message: helper}, status: daemon.MiscFailure,
			lines: []string{
				"error: build of '" + string(dependency) + "' on 'ssh://a' failed: builder for '" + string(dependency) + "' failed with exit code 2",
				"error: build of '" + string(drv) + "' on 'ssh://a' failed: builder for '" + string(drv) + "' failed with exit code 3",
			},
			cause: "error: build of '" + string(drv) + "' on 'ssh://a' failed: builder for '" + string(drv) + "' failed with exit code 3\n",
		},
		{
			name: "too slow on a remote builder", failure: daemon.Result{Status: daemon.MiscFailure, Message: helper}, status: daemon.TimedOut,
			lines: []string{"error: build of '" + string(drv) + "' on 'ssh-ng://a' failed: building of '" + string(drv) + "!out' from in-memory derivation timed out after 3 seconds"},
			cause: "error: build of",
		},
		{
			name: "ended by another one's failure", failure: daemon.Result{Status: daemon.MiscFailure}, status: daemon.MiscFailure,
			lines: []string{"error: builder for '" + string(dependency) + "' failed with exit code 3;"},
		},
		{
			name: "lost", failure: daemon.Result{Status: daemon.MiscFailure, Message: helper}, status: daemon.MiscFailure, cause: helper, lost: 1,
			lines: []string{"error: unexpected end-of-file"},
		},
		{
			name: "out of reach", failure: daemon.Result{Status: daemon.MiscFailure}, status: daemon.MiscFailure, unusable: logLines,
			lines: strings.Split(strings.Repeat("cannot build on 'ssh://a': error: cannot connect to 'a': Connection refused\n", logLines+1), "\n"),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			said := remarks{tails: make(map[store.Path][]string)}
			for _, line := range test.lines {
				said.add(daemon.LogLine{Text: line})
				said.add(daemon.LogLine{Drv: drv, Text: line}) // a builder may write what it likes
			}
			test.failure.Target = target
			got := said.complete(test.failure)
			if got.Status != test.status || !strings.HasPrefix(got.Message, test.cause) || test.cause == "" && got.Message != "" {
				t.Errorf("%s, want %s: %q, want %q", got.Status, test.status, got.Message, test.cause)
			}
			if len(said.unusable) != test.unusable || len(said.lost) != test.lost {
				t.Errorf("builders out of reach: %q; lost: %q", said.unusable, said.lost)
			}
			if want := min(len(test.lines), logLines); len(said.tails) != 1 || len(said.tails[drv]) != want {
				t.Errorf("%d lines of the builder are kept, want %d", len(said.tails[drv]), want)
			}
		})
	}
}
