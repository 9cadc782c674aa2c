package nixbuilder

import (
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

// A denied package is denied by any name, and so is each of its outputs; a denied output is denied
// by any name, and its package is not.
func TestDeniedByDerivation(t *testing.T) {
	of := func(attr, drv, output string, install ...string) *eval.Package {
		return &eval.Package{
			Attr:             []string{attr},
			Output:           output,
			Derivation:       storetest.Path(drv),
			Pname:            attr,
			OutputsToInstall: install,
		}
	}
	results := map[string]eval.Result{
		"git":         {Package: of("git", "git.drv", "", "out")},
		"openssl.dev": {Package: of("openssl", "openssl.drv", "dev", "dev")},
		"gone":        {Failure: &eval.Failure{Kind: eval.NotFound}},
	}
	denied := newDenials([]string{"git", "openssl.dev", "gone", "unasked"}, results)
	for _, test := range []struct {
		name string
		p    *eval.Package
		want bool
	}{
		{"the package by another name", of("renamed", "git.drv", "", "out"), true},
		{"an output of it", of("renamed", "git.drv", "doc", "doc"), true},
		{"another package", of("renamed", "git2.drv", "", "out"), false},
		{"the output by another name", of("ssl", "openssl.drv", "dev", "dev"), true},
		{"a package that is the output", of("ssldev", "openssl.drv", "", "dev"), true},
		{"its package", of("ssl", "openssl.drv", "", "bin", "man"), false},
		{"its package, that installs more", of("ssl", "openssl.drv", "", "bin", "dev"), false},
		{"another output", of("ssl", "openssl.drv", "man", "man"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := chosen{name: "x", Package: *test.p}
			if got := c.denied(names.Policy{Deny: []string{"git", "openssl.dev"}}, denied); got != test.want {
				t.Errorf("denied = %t, want %t", got, test.want)
			}
			if c.denied(names.Policy{}, nil) {
				t.Error("it is denied without a policy")
			}
		})
	}
}
