package nixbuilder

import (
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
)

func TestMetaPackages(t *testing.T) {
	b := &Builder{options: Options{
		Shell: []string{"bash", "nano"}, CI: []string{"bash", "git"}, Foreign: []string{"nix-ld", "zlib"},
	}}
	fine := eval.Result{Package: &eval.Package{}}
	fails := func(kind eval.Kind) eval.Result {
		return eval.Result{Failure: &eval.Failure{Kind: kind, Message: "no such thing"}}
	}
	all := map[string]eval.Result{"bash": fine, "nano": fine, "git": fine, "nix-ld": fine, "zlib": fine}
	with := func(name string, result eval.Result) map[string]eval.Result {
		results := map[string]eval.Result{name: result}
		for other, fine := range all {
			if other != name {
				results[other] = fine
			}
		}
		return results
	}
	for _, test := range []struct {
		name    string
		request names.Request
		results map[string]eval.Result
		want    []string
		wantErr string
	}{
		{"none", names.Request{}, all, nil, ""},
		{"shell", names.Request{Shell: true}, all, []string{"bash", "nano"}, ""},
		{"ci", names.Request{CI: true}, all, []string{"bash", "git", "nix-ld", "zlib"}, ""},
		{"both", names.Request{Shell: true, CI: true}, all, []string{"bash", "nano", "bash", "git", "nix-ld", "zlib"}, ""},
		{
			"a program is missing", names.Request{CI: true}, with("git", fails(eval.NotFound)), nil,
			"the meta-package ci needs git: no such thing",
		},
		{
			"a library is missing", names.Request{CI: true}, with("nix-ld", fails(eval.NotFound)),
			[]string{"bash", "git", "zlib"}, "",
		},
		{
			"a library can't be had", names.Request{CI: true}, with("zlib", fails(eval.Unfree)), nil,
			"the meta-package ci includes zlib: no such thing",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			var fault string
			for _, meta := range b.metaPackages(test.request) {
				members, err := meta.members(test.results)
				if err != nil {
					got, fault = nil, err.Error()
					break
				}
				for _, member := range members {
					if got = append(got, member.name); member.asked {
						t.Errorf("%s counts as asked for by the client", member.name)
					}
				}
			}
			if !slices.Equal(got, test.want) || fault != test.wantErr {
				t.Errorf("got %q, %q; want %q, %q", got, fault, test.want, test.wantErr)
			}
		})
	}
}

func TestWarnOfHidden(t *testing.T) {
	hook := logrustest.NewGlobal()
	t.Cleanup(func() { logrus.StandardLogger().ReplaceHooks(make(logrus.LevelHooks)) })
	b := &Builder{options: Options{CI: []string{"bash", "git"}}}
	notFound := eval.Result{Failure: &eval.Failure{Kind: eval.NotFound}}
	b.warnOfHidden(map[string]eval.Result{names.Shell: notFound, names.CI: notFound}, "x86_64-linux")
	if entry := hook.LastEntry(); entry != nil {
		t.Errorf("logged %q of a set without such packages", entry.Message)
	}
	hidden := eval.Result{Package: &eval.Package{Attr: []string{"CI"}}}
	b.warnOfHidden(map[string]eval.Result{names.Shell: notFound, names.CI: hidden}, "x86_64-linux")
	const want = "nix: CI of the package set can't be pulled"
	if entry := hook.LastEntry(); entry == nil || !strings.HasPrefix(entry.Message, want) {
		t.Errorf("logged %+v, want %q", entry, want)
	}
}
