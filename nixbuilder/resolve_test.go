package nixbuilder

import (
	"errors"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
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
