package names

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, in, prefix string
		want             Request
		wantErr          string
	}{
		{name: "one package", in: "htop", want: Request{Packages: []string{"htop"}}},
		{name: "sorted, each once", in: "htop/git/htop", want: Request{Packages: []string{"git", "htop"}}},
		{name: "shell", in: "shell/git", want: Request{Packages: []string{"git"}, Shell: true}},
		{name: "shell alone", in: "shell", want: Request{Shell: true}},
		{
			name: "platform then shell", in: "arm64/shell/git",
			want: Request{Packages: []string{"git"}, Shell: true, Arch: "arm64"},
		},
		{
			name: "shell then platform", in: "shell/arm64/git",
			want: Request{Packages: []string{"git"}, Shell: true, Arch: "arm64"},
		},
		{name: "ci", in: "ci/git", want: Request{Packages: []string{"git"}, CI: true}},
		{name: "ci alone", in: "ci", want: Request{CI: true}},
		{
			name: "every meta-package", in: "ci/arm64/shell/git",
			want: Request{Packages: []string{"git"}, Shell: true, CI: true, Arch: "arm64"},
		},
		{name: "a package whose name begins so", in: "ci.git", want: Request{Packages: []string{"ci.git"}}},
		{name: "meta-packages lead only", in: "git/shell", wantErr: "ask for shell/git"},
		{name: "ci, too", in: "git/ci", wantErr: "ask for ci/git"},
		{name: "dots", in: "haskellpackages.hlint", want: Request{Packages: []string{"haskellpackages.hlint"}}},
		{name: "under the prefix", in: "nix/git", prefix: "nix", want: Request{Packages: []string{"git"}}},
		{name: "deep prefix", in: "a/b/git", prefix: "a/b", want: Request{Packages: []string{"git"}}},
		{name: "outside the prefix", in: "git", prefix: "nix", wantErr: ErrOutside.Error()},
		{name: "prefix is of whole components", in: "nixos/git", prefix: "nix", wantErr: ErrOutside.Error()},
		{name: "platform without a package", in: "arm64", wantErr: "no package"},
		{name: "two platforms", in: "arm64/amd64/git", wantErr: "exclude each other"},
		{name: "an empty part", in: "git//htop", wantErr: "empty"},
		{name: "empty", in: "", wantErr: "empty"},
		{name: "too many", in: "a/b/c/d", wantErr: "4 packages in one name, 3 are allowed"},
		{name: "repetition does not count", in: "a/b/c/a", want: Request{Packages: []string{"a", "b", "c"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(test.in, test.prefix, 3)
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("Parse(%q) = %v, %v; want the error %q", test.in, got, err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("Parse(%q) = %+v, want %+v", test.in, got, test.want)
			}
		})
	}
}

func TestPolicy(t *testing.T) {
	for _, test := range []struct {
		name    string
		policy  Policy
		id      string
		aliases []string
		want    bool
	}{
		{name: "nothing said", id: "git"},
		{name: "denied", policy: Policy{Deny: []string{"git*"}}, id: "git", want: true},
		{name: "denied in other letters", policy: Policy{Deny: []string{"Git"}}, id: "gIT", want: true},
		{
			name: "denied by an alias", policy: Policy{Deny: []string{"hello"}}, id: "pkgs.hello",
			aliases: []string{"hello"}, want: true,
		},
		{name: "allowed", policy: Policy{Allow: []string{"python3*"}}, id: "python3"},
		{name: "not among the allowed", policy: Policy{Allow: []string{"python3*"}}, id: "git", want: true},
		{
			name: "an alias does not allow", policy: Policy{Allow: []string{"hello"}}, id: "evil.hello",
			aliases: []string{"hello"}, want: true,
		},
		{name: "parts", policy: Policy{Allow: []string{"perlPackages.*"}}, id: "perlPackages.URI"},
		{
			name: "a wildcard of allow ends at a dot", policy: Policy{Allow: []string{"perlPackages.*"}},
			id: "perlPackages.pkgs.git", want: true,
		},
		{name: "so does one of characters", policy: Policy{Allow: []string{"perl?git"}}, id: "perl.git", want: true},
		{name: "and one alone", policy: Policy{Allow: []string{"*"}}, id: "perlPackages.URI", want: true},
		{name: "any number of parts", policy: Policy{Allow: []string{"perlPackages.**"}}, id: "perlPackages.pkgs.git"},
		{name: "none among them", policy: Policy{Allow: []string{"**.git"}}, id: "git"},
		{name: "at the front", policy: Policy{Allow: []string{"**.git"}}, id: "a.b.git"},
		{name: "in the middle", policy: Policy{Allow: []string{"a.**.git"}}, id: "a.b.c.git"},
		{name: "but the rest counts", policy: Policy{Allow: []string{"a.**.git"}}, id: "a.b.c.gitFull", want: true},
		{name: "several times", policy: Policy{Allow: []string{"**.b.**.d"}}, id: "a.b.c.b.d"},
		{name: "fewer parts", policy: Policy{Allow: []string{"perlPackages.*"}}, id: "perlPackages", want: true},
		{name: "two stars within a part", policy: Policy{Allow: []string{"a**.c"}}, id: "a.b.c", want: true},
		{
			name: "a wildcard of deny goes on after a dot", policy: Policy{Deny: []string{"perlPackages.*"}},
			id: "perlPackages.pkgs.git", want: true,
		},
		{
			name: "of a package's name too", policy: Policy{Deny: []string{"python3*"}}, id: "renamed",
			aliases: []string{"python3.12-requests"}, want: true,
		},
		{name: "any number of parts are denied", policy: Policy{Deny: []string{"**.git"}}, id: "git", want: true},
		{name: "deny wins", policy: Policy{Allow: []string{"*"}, Deny: []string{"git"}}, id: "git", want: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.policy.Denies(test.id, test.aliases...); got != test.want {
				t.Errorf("Denies(%q, %q) = %v, want %v", test.id, test.aliases, got, test.want)
			}
		})
	}
	for _, glob := range []string{"[", "[a.b]*"} {
		if err := (Policy{Allow: []string{glob}}).Check(); err == nil || !strings.Contains(err.Error(), `"`+glob+`"`) {
			t.Errorf("Check of a bad glob = %v, want it named", err)
		}
	}
	policy := Policy{Allow: []string{"a"}, Deny: []string{"git", "g*", "python3.12", "?", "[ab]", "", "openssl.dev"}}
	if want := []string{"git", "python3.12", "openssl.dev"}; !slices.Equal(policy.Named(), want) {
		t.Errorf("Named = %q, want %q", policy.Named(), want)
	}
}

// FuzzParse: what Parse accepts has a canonical spelling that means the same and does not change
// again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"shell/git/htop", "arm64/a.b/a.b", "git/shell", "//", "amd64/amd64/shell/shell"} {
		f.Add(seed, "")
	}
	f.Add("nix/git", "nix")
	f.Fuzz(func(t *testing.T, name, prefix string) {
		r, err := Parse(name, prefix, 30)
		if err != nil {
			return
		}
		again, err := Parse(r.String(), "", 30)
		if errors.Is(err, ErrOutside) || err != nil {
			t.Fatalf("Parse(%q): %v, but Parse(%q) was fine", r.String(), err, name)
		}
		if !reflect.DeepEqual(again, r) {
			t.Fatalf("Parse(%q) = %+v, Parse(%q) = %+v", name, r, r.String(), again)
		}
	})
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"git":                        "git",
		"git/htop":                   "git/htop",
		"htop/git/htop":              "git/htop",
		"shell/htop/git/git":         "shell/git/htop",
		"ci/arm64/shell/ci/b/a":      "arm64/shell/ci/a/b",
		"shell/arm64/git":            "arm64/shell/git",
		"git/shell":                  "git/shell", // of no packages
		"arm64/amd64/b/a":            "arm64/amd64/b/a",
		"a/b/c/d/e/a":                "a/b/c/d/e/a", // too many
		"d/c/b/a/a/a":                "a/b/c/d",
		"python3packages.numpy/Curl": "Curl/python3packages.numpy",
	} {
		if got := Canonical(in, "", 4); got != want {
			t.Errorf("the canonical spelling of %s is %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"nix/x/b/a": "nix/x/a/b", "b/a": "b/a", "nix/b/a": "nix/b/a"} {
		if got := Canonical(in, "nix/x", 4); got != want {
			t.Errorf("below nix/x, the canonical spelling of %s is %s, want %s", in, got, want)
		}
	}
}

// FuzzCanonical: a canonical spelling is its own, and that of all names that ask for the same: with
// packages in another order, and again, and so with meta-packages.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"shell/git/htop", "arm64/b.a/a.b", "git/shell", "ci/ci/amd64/x", "team/app"} {
		f.Add(seed, "", uint64(1))
	}
	f.Add("nix/git/curl/git", "nix", uint64(7))
	f.Fuzz(func(t *testing.T, name, prefix string, seed uint64) {
		canonical := Canonical(name, prefix, 30)
		if again := Canonical(canonical, prefix, 30); again != canonical {
			t.Fatalf("the canonical spelling of %q is %q, and that of it %q", name, canonical, again)
		}
		r, err := Parse(name, prefix, 30)
		if err != nil {
			return
		}
		want := r.String()
		if prefix != "" {
			want = prefix + "/" + want
		}
		if canonical != want {
			t.Fatalf("the canonical spelling of %q is %q, want %q", name, canonical, want)
		}
		random := rand.New(rand.NewPCG(seed, 0))
		parts := strings.Split(strings.TrimPrefix(name, prefix+"/"), "/")
		metas := parts[:slices.IndexFunc(append(parts, ""), func(part string) bool {
			return !slices.Contains([]string{Shell, CI, amd64, arm64}, part)
		})]
		packages := slices.Clone(parts[len(metas):])
		shuffle := func(names []string) []string {
			names = append(slices.Clone(names), names[:random.IntN(len(names)+1)]...)
			random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			return names
		}
		other := strings.Join(append(shuffle(metas), shuffle(packages)...), "/")
		if prefix != "" {
			other = prefix + "/" + other
		}
		if got := Canonical(other, prefix, 30); got != canonical {
			t.Fatalf("%q is %q, and %q is %q, of %+v", name, canonical, other, got, r)
		}
	})
}

// A name of many parts is compared with many wildcards in no time.
func TestManyWildcards(t *testing.T) {
	glob := strings.Repeat("**.a.", 30) + "c"
	name := strings.Repeat("a.", 120)
	for end, want := range map[string]bool{"b": false, "c": true} {
		if got := matches([]string{glob}, name+end); got != want {
			t.Errorf("%s…%s is matched: %v", name[:10], end, got)
		}
	}
}
