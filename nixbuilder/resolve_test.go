package nixbuilder

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

func TestRefusal(t *testing.T) {
	fine := eval.Result{Package: &eval.Package{}}
	result := func(kind eval.Kind, message string) eval.Result {
		return eval.Result{Failure: &eval.Failure{Kind: kind, Message: message}}
	}
	for _, test := range []struct {
		name    string
		results map[string]eval.Result
		want    *status.Error
	}{
		{"fine", map[string]eval.Result{"a": fine, "b": fine}, nil},
		{
			"one is missing", map[string]eval.Result{"a": fine, "b": result(eval.NotFound, "no b")},
			&status.Error{Kind: status.NotFound, Message: "no b"},
		},
		{
			"all that are missing are named",
			map[string]eval.Result{"a": result(eval.NotFound, "no a"), "b": result(eval.NotFound, "no b")},
			&status.Error{Kind: status.NotFound, Message: "no a; no b"},
		},
		{
			"what was perhaps meant",
			map[string]eval.Result{
				"a": fine,
				"b": {Failure: &eval.Failure{Kind: eval.NotFound, Message: "no b", NearMisses: []string{"bb", "bc"}}},
			},
			&status.Error{Kind: status.NotFound, Message: "no b (did you mean bb, bc?)"},
		},
		{
			"missing goes before refused",
			map[string]eval.Result{"a": result(eval.Unfree, "unfree"), "b": result(eval.NotFound, "no b")},
			&status.Error{Kind: status.NotFound, Message: "no b"},
		},
		{
			"refused",
			map[string]eval.Result{"a": result(eval.Ambiguous, "a or A"), "b": result(eval.Limit, "too long")},
			&status.Error{Kind: status.Denied, Message: "a or A; b: too long"},
		},
		{
			"refused and perhaps not the next time",
			map[string]eval.Result{"a": result(eval.Unfetched, "no net"), "b": result(eval.Unfree, "unfree")},
			&status.Error{Kind: status.Unavailable, Message: "a: no net; b: unfree"},
		},
		{
			"for want of a submodule", map[string]eval.Result{
				"a": fine, "b": result(eval.Crashes, "opening 'packages/lib/x.nix'"),
			},
			&status.Error{
				Kind:    status.Denied,
				Message: "opening 'packages/lib/x.nix' (lib is a git submodule, and packages.git.submodules is not true)",
			},
		},
		{
			"of much the same name",
			map[string]eval.Result{"a": fine, "b": result(eval.Crashes, "opening 'packages/lib2/x.nix'")},
			&status.Error{Kind: status.Denied, Message: "opening 'packages/lib2/x.nix'"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := refusal([]string{"a", "b"}, test.results, source.Pinned{Absent: []string{"lib"}})
			var got *status.Error
			if errors.As(err, &got) != (test.want != nil) || got != nil && *got != *test.want {
				t.Errorf("refusal = %+v, want %+v", err, test.want)
			}
		})
	}
}

func TestUnique(t *testing.T) {
	a := eval.Package{Attr: []string{"a"}, Derivation: storetest.Path("a.drv"), OutputsToInstall: []string{"out"}}
	alias := eval.Package{
		Attr: []string{"set", "a"}, Derivation: storetest.Path("a.drv"), OutputsToInstall: []string{"out"},
	}
	other := eval.Package{Attr: []string{"A"}, Derivation: storetest.Path("b.drv"), OutputsToInstall: []string{"out"}}
	got := packages{
		{name: "set.a", asked: true, Package: alias},
		{name: "a", Package: a},
		{name: "A", Package: other},
	}.unique()
	if len(got) != 2 || got[0].name != "A" || got[1].name != "a" || !got[1].asked || got[0].asked {
		t.Errorf("unique = %+v, want A and, asked for, a", got)
	}
}

// What one package installs of a derivation another need not; outputs that nobody else installs
// stay.
func TestUniqueOutputs(t *testing.T) {
	of := func(attr, output string, installed ...string) chosen {
		return chosen{
			name:  attr,
			asked: output != "",
			Package: eval.Package{
				Attr:             []string{attr},
				Output:           output,
				Derivation:       storetest.Path("a.drv"),
				OutputsToInstall: installed,
			},
		}
	}
	for _, test := range []struct {
		name  string
		given packages
		want  []string // those that were asked for with a star
	}{
		{"another output", packages{of("a", "", "bin", "man"), of("a", "dev", "dev")}, []string{"a", "a.dev*"}},
		{"an output that is installed", packages{of("a", "bin", "bin"), of("b", "", "bin", "man")}, []string{"b*"}},
		{
			"an output that several install",
			packages{of("a", "bin", "bin"), of("b", "bin", "bin"), of("c", "dev", "dev")},
			[]string{"a.bin*", "c.dev*"},
		},
		{"overlapping", packages{of("a", "", "bin", "man"), of("b", "", "bin", "dev")}, []string{"a", "b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, c := range test.given.unique() {
				name := c.attribute()
				if c.asked {
					name += "*"
				}
				got = append(got, name)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestDenied(t *testing.T) {
	openssl := chosen{name: "openssl", Package: eval.Package{Attr: []string{"openssl"}, Pname: "openssl"}}
	dev := chosen{
		name:    "openssl.dev",
		Package: eval.Package{Attr: []string{"openssl"}, Output: "dev", Pname: "openssl"},
	}
	alias := chosen{
		name:    "ssl-dev",
		Package: eval.Package{Attr: []string{"sslDev"}, Pname: "openssl", OutputsToInstall: []string{"dev"}},
	}
	nested := chosen{
		name:    "stdenv.cc.cc.lib",
		Package: eval.Package{Attr: []string{"stdenv", "cc", "cc"}, Output: "lib", Pname: "gcc"},
	}
	for _, test := range []struct {
		name   string
		policy names.Policy
		chosen chosen
		want   bool
	}{
		{"nothing said", names.Policy{}, dev, false},
		{"the package", names.Policy{Deny: []string{"openssl"}}, dev, true},
		{"the package, by its own name", names.Policy{Deny: []string{"openssl"}}, alias, true},
		{"the output", names.Policy{Deny: []string{"openssl.dev"}}, dev, true},
		{"another output", names.Policy{Deny: []string{"openssl.man"}}, dev, false},
		{"the output alone", names.Policy{Deny: []string{"*.dev"}}, openssl, false},
		{"what is allowed", names.Policy{Allow: []string{"openssl"}}, dev, false},
		{"an output that is allowed", names.Policy{Allow: []string{"openssl.dev"}}, dev, false},
		{"what is not allowed but for an output", names.Policy{Allow: []string{"openssl.dev"}}, openssl, true},
		{"what is not allowed", names.Policy{Allow: []string{"git"}}, dev, true},
		{"what is allowed and denied", names.Policy{Allow: []string{"openssl"}, Deny: []string{"*.dev"}}, dev, true},
		{"inside a package", names.Policy{Deny: []string{"gcc"}}, nested, true},
		{"what it is inside of", names.Policy{Deny: []string{"stdenv"}}, nested, true},
		{"inside an allowed package", names.Policy{Allow: []string{"stdenv"}}, nested, true},
		{"inside, allowed itself", names.Policy{Allow: []string{"stdenv.cc.cc.lib"}}, nested, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.chosen.denied(test.policy, nil); got != test.want {
				t.Errorf("denied = %v, want %v", got, test.want)
			}
		})
	}
}

func TestHint(t *testing.T) {
	pinned := source.Pinned{Absent: []string{"modules/lib"}, Pointers: []string{"assets/data.bin", "LICENSE"}}
	for message, want := range map[string]string{
		"getting status of 'packages/modules/lib/default.nix': No such file": "modules/lib is a git submodule",
		"syntax error at packages/assets/data.bin:1:1":                       "assets/data.bin is in git LFS",
		"its last lines: gzip: /nix/store/hash-data.bin: not in gzip format": "assets/data.bin is in git LFS",
		"its last lines: data.bin.gz, data.bins and data.bin-1 are missing":  "",
		"no such file": "",
	} {
		if got := hint(pinned, message); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("the hint for %q is %q, want %q", message, got, want)
		}
	}
}

// What an image's documents tell of packages is what was found in the set, by the set's own names.
func TestDescribed(t *testing.T) {
	user := "nobody"
	outputs := map[string]store.Path{"out": storetest.Path("json"), "man": storetest.Path("json-man")}
	got := packages{{asked: true, name: "perlpackages.json.man", Package: eval.Package{
		Attr: []string{"perlPackages", "JSON"}, Output: "man", Version: "4", Outputs: outputs,
		OutputsToInstall: []string{"man"}, Derivation: storetest.Path("json.drv"), Pname: "json",
		MainProgram: "json_xs", Image: &eval.Image{User: &user, Cmd: []string{"a"}},
	}}}.described()
	want := []image.Package{{
		Name: "perlPackages.JSON.man", Version: "4", Paths: []store.Path{storetest.Path("json-man")},
		Derivation: storetest.Path("json.drv"), Asked: true, MainProgram: "json_xs", Pname: "json",
		Settings: &image.Settings{User: &user, Cmd: []string{"a"}},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
