package nixbuilder

import (
	"errors"
	"slices"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

func TestRefusal(t *testing.T) {
	fine := eval.Result{Package: &eval.Package{}}
	result := func(kind eval.Kind, message string) eval.Result {
		return eval.Result{Failure: &eval.Failure{Kind: kind, Message: message}}
	}
	for _, test := range []struct {
		name    string
		results map[string]eval.Result
		want    *Error
	}{
		{"fine", map[string]eval.Result{"a": fine, "b": fine}, nil},
		{"one is missing", map[string]eval.Result{"a": fine, "b": result(eval.NotFound, "no b")}, &Error{NotFound, "no b"}},
		{"all that are missing are named", map[string]eval.Result{"a": result(eval.NotFound, "no a"), "b": result(eval.NotFound, "no b")}, &Error{NotFound, "no a; no b"}},
		{"what was perhaps meant", map[string]eval.Result{"a": fine, "b": {Failure: &eval.Failure{Kind: eval.NotFound, Message: "no b", NearMisses: []string{"bb", "bc"}}}}, &Error{NotFound, "no b (did you mean bb, bc?)"}},
		{"missing goes before refused", map[string]eval.Result{"a": result(eval.Unfree, "unfree"), "b": result(eval.NotFound, "no b")}, &Error{NotFound, "no b"}},
		{"refused", map[string]eval.Result{"a": result(eval.Ambiguous, "a or A"), "b": result(eval.Limit, "too long")}, &Error{Denied, "a or A; too long"}},
		{"refused and perhaps not the next time", map[string]eval.Result{"a": result(eval.Unfetched, "no net"), "b": result(eval.Unfree, "unfree")}, &Error{Unavailable, "no net; unfree"}},
		{
			"for want of a submodule", map[string]eval.Result{"a": fine, "b": result(eval.Crashes, "opening 'packages/lib/x.nix'")},
			&Error{Denied, "opening 'packages/lib/x.nix' (lib is a git submodule, and packages.git.submodules is not true)"},
		},
		{"of much the same name", map[string]eval.Result{"a": fine, "b": result(eval.Crashes, "opening 'packages/lib2/x.nix'")}, &Error{Denied, "opening 'packages/lib2/x.nix'"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := refusal([]string{"a", "b"}, test.results, source.Pinned{Absent: []string{"lib"}})
			var got *Error
			if errors.As(err, &got) != (test.want != nil) || got != nil && *got != *test.want {
				t.Errorf("refusal = %+v, want %+v", err, test.want)
			}
		})
	}
}

func TestUnique(t *testing.T) {
	a := eval.Package{Attr: []string{"a"}, Derivation: path("a.drv"), OutputsToInstall: []string{"out"}}
	alias := eval.Package{Attr: []string{"set", "a"}, Derivation: path("a.drv"), OutputsToInstall: []string{"out"}}
	other := eval.Package{Attr: []string{"A"}, Derivation: path("b.drv"), OutputsToInstall: []string{"out"}}
	got := packages{{name: "set.a", asked: true, Package: alias}, {name: "a", Package: a}, {name: "A", Package: other}}.unique()
	if len(got) != 2 || got[0].name != "A" || got[1].name != "a" || !got[1].asked || got[0].asked {
		t.Errorf("unique = %+v, want A and, asked for, a", got)
	}
}

func TestExplainBuild(t *testing.T) {
	drv, dependency := path("app-1.drv"), path("lib-1.drv")
	target, err := daemon.Outputs(drv, "out")
	if err != nil {
		t.Fatal(err)
	}
	tails := map[store.Path][]string{drv: {"linking"}, dependency: {"compiling", "error: no"}}
	for _, test := range []struct {
		name    string
		failure daemon.Result
		want    string // empty: not for the client
	}{
		{
			"its builder", daemon.Result{Target: target, Status: daemon.PermanentFailure, Message: "builder for '" + string(drv) + "' failed with exit code 1"},
			"building app-1 failed with exit code 1; its last lines: linking; on the registry's host, `nix-store --read-log " + string(drv) + "` has the whole log",
		},
		{
			"a dependency's builder", daemon.Result{Target: target, Status: daemon.DependencyFailed, Message: "error: builder for '" + string(dependency) + "' failed due to signal 9 (Killed);\n 1 dependencies of derivation '" + string(drv) + "' failed to build"},
			"building lib-1 failed due to signal 9 (Killed); its last lines: compiling | error: no; on the registry's host, `nix-store --read-log " + string(dependency) + "` has the whole log",
		},
		{
			"too slow", daemon.Result{Target: target, Status: daemon.TimedOut},
			"building app-1 took longer than this registry allows; its last lines: linking; on the registry's host, `nix-store --read-log " + string(drv) + "` has the whole log",
		},
		{"in no cache", daemon.Result{Target: daemon.Opaque(path("app-1")), Status: daemon.NoSubstituters}, "no binary cache has app-1"},
		{"a passing fault", daemon.Result{Target: target, Status: daemon.TransientFailure, Message: "disk full"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := explainBuild(test.failure, tails)
			var got *Error
			if errors.As(err, &got) != (test.want != "") || got != nil && (got.Message != test.want || got.Kind != Denied) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestBlame(t *testing.T) {
	ordered := []daemon.Result{
		{Status: daemon.PermanentFailure},
		{Status: daemon.DependencyFailed, Message: "because of that"},
		{Status: daemon.MiscFailure},
	}
	if !slices.IsSortedFunc(ordered, func(a, b daemon.Result) int { return blame(a) - blame(b) }) {
		t.Error("a failure without a cause goes before one with a cause")
	}
}
