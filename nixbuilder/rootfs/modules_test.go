package rootfs

import (
	"context"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

const needs = "/nix-support/propagated-build-inputs"

// mergedOf merges packages, which are called by the names of their store paths. A file's name
// begins with that of its package, and {NAME} in a content or link is a store path. All packages of
// files are in the closure.
func mergedOf(t *testing.T, asked []string, files ...file) *Tree {
	t.Helper()
	inText := func(text string) string {
		return regexp.MustCompile(`\{[^}]*\}`).ReplaceAllStringFunc(text, func(name string) string {
			return string(storetest.Path(strings.Trim(name, "{}")))
		})
	}
	all := make(map[store.Path]bool)
	for i, f := range files {
		name, rest, _ := strings.Cut(f.name, "/")
		p := storetest.Path(name)
		all[p] = true
		files[i] = file{name: string(p) + "/" + rest, content: inText(f.content), link: inText(f.link)}
	}
	var packages []Package
	for _, name := range asked {
		packages = append(packages, one(name, 5, storetest.Path(name)))
	}
	tree, err := Merge(
		context.Background(), packages, slices.Sorted(maps.Keys(all)), NewStoreFiles(makeStore(t, files...)),
	)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// Interpreters as nixpkgs and Debian lay them out.
var (
	nixPython = []file{
		{name: "python3-3.12.4/bin/python3.12"}, {name: "python3-3.12.4/bin/python3", link: "python3.12"},
		{name: "python3-3.12.4/bin/python", link: "python3.12"},
		{name: "python3-3.12.4/lib/python3.12/os.py"},
		{name: "python3-3.12.4/lib/python3.12/site-packages/sitecustomize.py"},
	}
	oldPython = []file{
		{name: "python3-3.11.9/bin/python3.11"}, {name: "python3-3.11.9/bin/python3", link: "python3.11"},
		{name: "python3-3.11.9/lib/python3.11/site-packages/sitecustomize.py"},
	}
	python2 = []file{
		{name: "python-2.7.18/bin/python2.7"}, {name: "python-2.7.18/bin/python2", link: "python2.7"},
		{name: "python-2.7.18/bin/python", link: "python2.7"},
		{name: "python-2.7.18/lib/python2.7/site-packages/sitecustomize.py"},
	}
	debianPython = []file{
		{name: "python3-3.11.2-1/bin/python3.11"}, {name: "python3-3.11.2-1/bin/python3", link: "python3.11"},
		{name: "python3-3.11.2-1/lib/python3.11/sitecustomize.py"},
	}
)

// TestModules asks for an interpreter and modules of it.
func TestModules(t *testing.T) {
	for _, test := range []struct {
		name  string
		asked []string
		files [][]file
		want  map[string]string // variables
		has   []string          // entries of the root directory, as list prints them
		lacks []string          // their beginnings
		notes []string
	}{
		{
			name: "an interpreter alone", asked: []string{"python3-3.12.4"}, files: [][]file{nixPython},
			want: map[string]string{},
		},
		{
			name: "a module alone", asked: []string{"six"},
			files: [][]file{nixPython, {
				{name: "six/lib/python3.12/site-packages/six.py"}, {name: "six" + needs, content: "{python3-3.12.4}"},
			}},
			want: map[string]string{}, lacks: []string{"bin/python3", "lib/python3.12/os.py"},
		},
		{
			name: "three levels, in circles, and nothing of them but modules", asked: []string{"python3-3.12.4", "one"},
			files: [][]file{nixPython, {
				{name: "one/lib/python3.12/site-packages/one/x.py"}, {name: "one/bin/one"},
				{name: "one" + needs, content: "{two} {python3-3.12.4}\n"},
				{name: "two/lib/python3.12/site-packages/two/x.py"}, {name: "two/bin/two"}, {name: "two/share/two"},
				{name: "two" + needs, content: "{library-dev}\n{three}\n/nix/store/nothing ../../etc {outside}"},
				{name: "library-dev/lib/libx.so"}, {name: "library-dev" + needs, content: "{four}"},
				{name: "three/lib/python3.12/site-packages/one/x.py"}, {name: "three/lib/python3.12/site-packages/one/y.py"},
				{name: "three" + needs, link: "{three}/named"}, {name: "three/named", content: "{one} {two} {three}"},
				{name: "four/lib/python3.12/site-packages/four.py"}, {name: "four/lib/python3.11/site-packages/four.py"},
			}},
			want: map[string]string{"NIX_PYTHONPATH": "/lib/python3.12/site-packages"},
			has: []string{
				"bin/one -> {one}/bin/one",
				"lib/python3.12/site-packages/one/x.py -> {one}/lib/python3.12/site-packages/one/x.py",
				"lib/python3.12/site-packages/one/y.py -> {three}/lib/python3.12/site-packages/one/y.py",
				"lib/python3.12/site-packages/two/x.py -> {two}/lib/python3.12/site-packages/two/x.py",
				"lib/python3.12/site-packages/four.py -> {four}/lib/python3.12/site-packages/four.py",
			},
			lacks: []string{"bin/two", "share/", "lib/libx.so", "lib/python3.11"},
		},
		{
			name: "a python that is not nixpkgs'", asked: []string{"python3-3.11.2-1", "own", "apt"},
			files: [][]file{debianPython, {
				{name: "own/lib/python3.11/site-packages/own.py"}, {name: "apt/lib/python3/dist-packages/apt.py"},
			}},
			want: map[string]string{"PYTHONPATH": "/lib/python3.11/site-packages:/lib/python3/dist-packages"},
		},
		{
			name: "two versions of python", asked: []string{"python3-3.11.9", "python3-3.12.4", "six"},
			files: [][]file{nixPython, oldPython, {{name: "six/lib/python3.12/site-packages/six.py"}}},
			want:  map[string]string{},
			has:   []string{"bin/python3 -> {python3-3.11.9}/bin/python3"},
			notes: []string{"/bin/python3 finds the modules for python3.11, not those for python3.12"},
		},
		{
			name: "python 2 beside python 3", asked: []string{"python-2.7.18", "python3-3.12.4", "six", "six2"},
			files: [][]file{nixPython, python2, {
				{name: "six/lib/python3.12/site-packages/six.py"}, {name: "six2/lib/python2.7/site-packages/six.py"},
			}},
			want:  map[string]string{"NIX_PYTHONPATH": "/lib/python3.12/site-packages"},
			notes: []string{"/bin/python3 finds the modules for python3.12, not those for python2.7"},
		},
		{
			name: "python without the lock", asked: []string{"python3-3.13.1", "six"},
			files: [][]file{{
				{name: "python3-3.13.1/bin/python3.13t"}, {name: "python3-3.13.1/bin/python3", link: "python3.13t"},
				{name: "python3-3.13.1/lib/python3.13t/site-packages/sitecustomize.py"},
				{name: "six/lib/python3.13t/site-packages/six.py"},
			}},
			want: map[string]string{"NIX_PYTHONPATH": "/lib/python3.13t/site-packages"},
		},
		{
			name: "PyPy", asked: []string{"pypy3.10-7.3.17", "six"},
			files: [][]file{{
				{name: "pypy3.10-7.3.17/bin/pypy3.10"}, {name: "pypy3.10-7.3.17/bin/pypy3", link: "pypy3.10"},
				{name: "pypy3.10-7.3.17/lib/pypy3.10/site-packages/sitecustomize.py"},
				{name: "six/lib/pypy3.10/site-packages/six.py"},
			}},
			want: map[string]string{"NIX_PYTHONPATH": "/lib/pypy3.10/site-packages"},
		},
		{
			name: "perl", asked: []string{"perl-5.40.0", "one", "old"},
			files: [][]file{{
				{name: "perl-5.40.0/bin/perl"}, {name: "perl-5.40.0/lib/perl5/5.40.0/strict.pm"},
				{name: "one/lib/perl5/site_perl/5.40.0/One.pm"}, {name: "one" + needs, content: "{two}"},
				{name: "two/lib/perl5/site_perl/5.40.0/Two.pm"},
				{name: "old/lib/perl5/site_perl/5.38.2/Old.pm"},
			}},
			want: map[string]string{"PERL5LIB": "/lib/perl5/site_perl"},
			has: []string{
				"lib/perl5/site_perl/5.40.0/Two.pm -> {two}/lib/perl5/site_perl/5.40.0/Two.pm",
			},
			notes: []string{"/bin/perl finds the modules for 5.40, not those for 5.38"},
		},
		{
			name: "Debian's perl", asked: []string{"perl-5.36.0-7", "pure", "xs"},
			files: [][]file{{
				{name: "perl-5.36.0-7/bin/perl"}, {name: "pure/share/perl5/Pure.pm"},
				{name: "xs/lib/x86_64-linux-gnu/perl5/5.36/XS.pm"}, {name: "xs/lib/aarch64-linux-gnu/perl5/5.32/XS.pm"},
			}},
			want: map[string]string{"PERL5LIB": "/share/perl5:/lib/x86_64-linux-gnu/perl5/5.36"},
		},
		{
			name: "ruby", asked: []string{"ruby-3.3.5", "ruby3.3-one-1.0"},
			files: [][]file{{
				{name: "ruby-3.3.5/bin/ruby"}, {name: "ruby-3.3.5/lib/ruby/gems/3.3.0/specifications/rake.gemspec"},
				{name: "ruby3.3-one-1.0/lib/ruby/gems/3.3.0/specifications/one.gemspec"},
			}},
			want: map[string]string{"GEM_PATH": "/lib/ruby/gems/3.3.0:"},
			has: []string{
				"lib/ruby/gems/3.3.0/specifications/rake.gemspec -> " +
					"{ruby-3.3.5}/lib/ruby/gems/3.3.0/specifications/rake.gemspec",
			},
		},
		{
			name: "node", asked: []string{"nodejs-22.1.0", "left-pad"},
			files: [][]file{{
				{name: "nodejs-22.1.0/bin/node"}, {name: "nodejs-22.1.0/lib/node_modules/npm/index.js"},
				{name: "left-pad/lib/node_modules/left-pad/index.js"}, {name: "left-pad" + needs, content: "{right-pad}"},
				{name: "right-pad/lib/node_modules/@scope/right-pad/index.js"},
			}},
			want: map[string]string{"NODE_PATH": "/lib/node_modules"},
			has: []string{
				"lib/node_modules/@scope/right-pad/index.js -> {right-pad}/lib/node_modules/@scope/right-pad/index.js",
			},
		},
		{
			name: "node with npm beside it", asked: []string{"nodejs-24.16.0"},
			files: [][]file{{
				{name: "nodejs-24.16.0/bin/node", link: "{nodejs-slim-24.16.0}/bin/node"},
				{name: "nodejs-24.16.0/lib/node_modules/npm/index.js", link: "{npm}/lib/node_modules/npm/index.js"},
				{name: "nodejs-slim-24.16.0/bin/node"}, {name: "npm/lib/node_modules/npm/index.js"},
			}},
			want: map[string]string{},
		},
		{
			name: "lua", asked: []string{"lua-5.4.7", "lua5.2-lfs"},
			files: [][]file{{
				{name: "lua-5.4.7/bin/lua"}, {name: "lua5.4-lpeg/lib/lua/5.4/lpeg.so"}, {name: "lua5.4-lpeg/share/lua/5.4/re.lua"},
				{name: "lua5.2-lfs/share/lua/5.2/lfs.lua"}, {name: "lua5.2-lfs" + needs, content: "{lua5.4-lpeg}"},
			}},
			want: map[string]string{
				"LUA_PATH": "/share/lua/5.4/?.lua;/share/lua/5.4/?/init.lua;;", "LUA_CPATH": "/lib/lua/5.4/?.so;;",
			},
			notes: []string{"/bin/lua finds the modules for 5.4, not those for 5.2"},
		},
		{
			name: "Debian's lua", asked: []string{"lua5.4-5.4.4", "lua-lpeg"},
			files: [][]file{{
				{name: "lua5.4-5.4.4/bin/lua5.4"}, {name: "lua5.4-5.4.4/bin/lua", link: "lua5.4"},
				{name: "lua-lpeg/lib/aarch64-linux-gnu/lua/5.4/lpeg.so"}, {name: "lua-lpeg/lib/lua/5.4/x.so"},
			}},
			want: map[string]string{"LUA_CPATH": "/lib/aarch64-linux-gnu/lua/5.4/?.so;/lib/lua/5.4/?.so;;"},
		},
		{
			name: "LuaJIT", asked: []string{"luajit-2.1.17", "lfs"},
			files: [][]file{{
				{name: "luajit-2.1.17/bin/luajit-2.1.17"}, {name: "luajit-2.1.17/bin/lua", link: "luajit-2.1.17"},
				{name: "lfs/share/lua/5.1/lfs.lua"},
			}},
			want: map[string]string{"LUA_PATH": "/share/lua/5.1/?.lua;/share/lua/5.1/?/init.lua;;"},
		},
		{
			name: "R", asked: []string{"R-4.4.1", "r-one"},
			files: [][]file{{
				{name: "R-4.4.1/bin/R"}, {name: "R-4.4.1/lib/R/library/base/DESCRIPTION"},
				{name: "r-one/library/one/DESCRIPTION"}, {name: "r-one" + needs, content: "{r-two}"},
				{name: "r-two/library/two/DESCRIPTION"},
				// As in nixpkgs: packages of R are installed with all that they need.
				{name: "r-one/nix-support/propagated-user-env-packages", link: "{r-one}" + needs},
			}},
			want: map[string]string{"R_LIBS_SITE": "/library"},
			has:  []string{"library/two/DESCRIPTION -> {r-two}/library/two/DESCRIPTION"},
		},
		{
			name: "files in the way", asked: []string{"python3-3.12.4", "a", "b"},
			files: [][]file{nixPython, {
				{name: "a/lib/python3.12/site-packages"}, {name: "a" + needs, content: "{c}"}, {name: "a/library"},
				{name: "c/lib/python3.12/site-packages/c.py"},
				{name: "b/bin/R"}, {name: "c/library/c/x"}, {name: "b/bin/lua/x"},
			}},
			want: map[string]string{},
		},
		{
			name: "an interpreter outside the closure, and one that is a directory", asked: []string{"a", "b"},
			files: [][]file{{
				{name: "a/bin/python3", link: "/usr/bin/python3.11"}, {name: "a/lib/python3.11/site-packages/a.py"},
				{name: "b/bin/perl/x"}, {name: "b/share/perl5/x"},
			}},
			want: map[string]string{},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := mergedOf(t, test.asked, slices.Concat(test.files...)...)
			if got := tree.Environment(); !maps.Equal(got, test.want) {
				t.Errorf("the variables are %v, want %v", got, test.want)
			}
			if got := tree.Notes(); !slices.Equal(got, test.notes) {
				t.Errorf("the notes are %q, want %q", got, test.notes)
			}
			entries := list(t, tree)
			for _, want := range test.has {
				want = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllStringFunc(want, func(name string) string {
					return string(storetest.Path(strings.Trim(name, "{}")))
				})
				if !slices.Contains(entries, want) {
					t.Errorf("there is no %s in\n%s", want, strings.Join(entries, "\n"))
				}
			}
			for _, name := range test.lacks {
				if slices.ContainsFunc(entries, func(entry string) bool { return strings.HasPrefix(entry, name) }) {
					t.Errorf("there is %s in\n%s", name, strings.Join(entries, "\n"))
				}
			}
		})
	}
}

// What only interpreters look for costs images without one nothing: the root directory is as if
// nothing was needed.
func TestModulesWithoutInterpreter(t *testing.T) {
	files := []file{{name: "one/bin/one"}, {name: "two/lib/perl5/site_perl/5.40.0/Two.pm"}}
	plain := list(t, mergedOf(t, []string{"one"}, slices.Clone(files)...))
	needing := append(files, file{name: "one" + needs, content: "{two}"})
	if got := list(t, mergedOf(t, []string{"one"}, needing...)); !reflect.DeepEqual(got, plain) {
		t.Errorf("got %q, want %q", got, plain)
	}
}
