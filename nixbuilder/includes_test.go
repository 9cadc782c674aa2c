package nixbuilder

import (
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
)

func TestFaultsOfIncludes(t *testing.T) {
	const system = "x86_64-linux"
	results := map[string]eval.Result{
		"fine":     {Package: &eval.Package{System: system}},
		"builtin":  {Package: &eval.Package{System: "builtin"}},
		"other":    {Package: &eval.Package{System: "aarch64-linux"}},
		"absent":   {Failure: &eval.Failure{Kind: eval.NotFound, Message: "no absent"}},
		"unfree":   {Failure: &eval.Failure{Kind: eval.Unfree, Message: "its license is"}},
		"bad":      {Failure: &eval.Failure{Kind: eval.BadImage, Message: "bad: a fault"}},
		"fetched":  {Failure: &eval.Failure{Kind: eval.Unfetched, Message: "no net"}},
		"too-much": {Failure: &eval.Failure{Kind: eval.Limit, Message: "too much memory"}},
		"today":    {Failure: &eval.Failure{Kind: eval.Throws, Message: "ask later", Transient: true}},
	}
	for _, test := range []struct{ include, lasting, passing string }{
		{include: "fine"},
		{include: "builtin"},
		{include: "absent"},
		{include: "other", lasting: "include: other: it is a package for aarch64-linux, the package set has none for x86_64-linux"},
		{include: "unfree", lasting: "include: unfree: its license is"},
		{include: "bad", lasting: "include: bad: a fault"},
		{include: "fetched", passing: "include: fetched: no net"},
		{include: "too-much", passing: "include: too-much: too much memory"},
		{include: "today", passing: "include: today: ask later"},
	} {
		lasting, passing := faultsOfIncludes([]string{"fine", test.include}, results, system)
		text := func(err error) string {
			if err == nil {
				return ""
			}
			return err.Error()
		}
		if text(lasting) != test.lasting || text(passing) != test.passing {
			t.Errorf("%s: %q and %q, want %q and %q", test.include, text(lasting), text(passing), test.lasting, test.passing)
		}
	}
}
