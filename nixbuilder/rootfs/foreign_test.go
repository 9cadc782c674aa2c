package rootfs

import (
	"slices"
	"strings"
	"testing"
)

// glibc is a package laid out as nixpkgs' glibc.
func glibc(p, loader string) []file {
	return []file{
		{name: p + "/lib/" + loader}, {name: p + "/lib/libc.so.6"}, {name: p + "/lib/gconv/x.so"},
		{name: p + "/lib64", link: "lib"},
	}
}

// TestForeign looks at where programs find a loader that were not made with Nix.
func TestForeign(t *testing.T) {
	const x86, arm = "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"
	shim := []file{{name: b + "/bin/nix-ld"}, {name: b + "/libexec/nix-ld", link: b + "/bin/nix-ld"}}
	for _, test := range []struct {
		name  string
		files []file
		want  []string // of what is in lib64 and usr/lib, and of loaders
		nixLD string
	}{
		{name: "no C library", files: []file{{name: a + "/lib/x.so"}}},
		{name: "nix-ld alone", files: shim},
		{
			name: "a C library alone, whose lib64 leads to it", files: glibc(a, x86),
			want: []string{
				"lib/" + x86 + " -> " + a + "/lib/" + x86, "lib64 -> " + a + "/lib64",
				"usr/lib/libc.so.6 -> " + a + "/lib/libc.so.6",
			},
		},
		{
			name: "Debian's, and another package in the same place",
			files: []file{
				{name: a + "/lib/" + x86, link: "x86_64-linux-gnu/" + x86}, {name: a + "/lib/x86_64-linux-gnu/" + x86},
				{name: a + "/lib/x86_64-linux-gnu/libc.so.6"}, {name: b + "/lib/x86_64-linux-gnu/libstdc++.so.6"},
			},
			want: []string{
				"lib/" + x86 + " -> " + a + "/lib/" + x86,
				"lib/x86_64-linux-gnu/" + x86 + " -> " + a + "/lib/x86_64-linux-gnu/" + x86,
				"lib64/" + x86 + " -> " + a + "/lib/" + x86,
				"usr/lib/libc.so.6 -> " + a + "/lib/x86_64-linux-gnu/libc.so.6",
				"usr/lib/libstdc++.so.6 -> " + b + "/lib/x86_64-linux-gnu/libstdc++.so.6",
			},
		},
		{
			name: "nix-ld goes before it", files: slices.Concat(glibc(a, x86), shim),
			want: []string{
				"lib/" + x86 + " -> " + a + "/lib/" + x86,
				"lib64/" + x86 + " -> " + b + "/libexec/nix-ld", "lib64/libc.so.6 -> " + a + "/lib/libc.so.6",
				"usr/lib/libc.so.6 -> " + a + "/lib/libc.so.6",
			},
			nixLD: a + "/lib/" + x86,
		},
		{
			name: "where the loader's own place is that of programs", files: slices.Concat(glibc(a, arm), shim),
			want: []string{
				"lib/" + arm + " -> " + b + "/libexec/nix-ld", "lib64 -> " + a + "/lib64",
				"usr/lib/libc.so.6 -> " + a + "/lib/libc.so.6",
			},
			nixLD: a + "/lib/" + arm,
		},
		{
			name:  "what packages have in /usr/lib stays",
			files: slices.Concat(glibc(a, x86), []file{{name: b + "/usr/lib/libc.so.6"}}),
			want: []string{
				"lib/" + x86 + " -> " + a + "/lib/" + x86, "lib64 -> " + a + "/lib64",
				"usr/lib/libc.so.6 -> " + b + "/usr/lib/libc.so.6",
			},
		},
		{
			name: "a file where the directory should be",
			files: []file{
				{name: a + "/lib/" + x86}, {name: a + "/lib64"}, {name: a + "/usr/lib"}, {name: a + "/lib/libc.so.6"},
			},
			want: []string{"lib/" + x86 + " -> " + a + "/lib/" + x86, "lib64 -> " + a + "/lib64"},
		},
		{
			name: "directories in the place of files",
			files: slices.Concat(
				shim, []file{
					{name: a + "/lib/" + x86}, {name: a + "/lib64/" + x86 + "/x"}, {name: c + "/libexec/nix-ld/x"},
				},
			),
			want: []string{
				"lib/" + x86 + " -> " + a + "/lib/" + x86, "lib64/" + x86 + "/x -> " + a + "/lib64/" + x86 + "/x",
			},
			nixLD: a + "/lib/" + x86,
		},
		{
			name: "links out of the closure are no loaders",
			files: []file{
				{name: a + "/lib/" + x86, link: "/etc/passwd"}, {name: b + "/lib/" + arm, link: d + "/ld"},
				{name: d + "/ld"}, {name: c + "/lib/loop", link: "loop"},
			},
			want: []string{"lib/" + arm + " -> " + b + "/lib/" + arm, "lib/" + x86 + " -> " + a + "/lib/" + x86},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := makeStore(t, append(test.files, file{name: a + "/"}, file{name: b + "/"}, file{name: c + "/"})...)
			tree := merged(t, root, one("a", 5, a), one("b", 5, b), one("c", 5, c))
			var got []string
			for _, line := range list(t, tree) {
				if strings.Contains(line, "lib64") || strings.HasPrefix(line, "usr/lib/lib") || strings.Contains(line, "/ld-linux-") {
					got = append(got, line)
				}
			}
			got = slices.DeleteFunc(got, func(line string) bool {
				return !strings.Contains(line, " -> ") || strings.Contains(line, "gconv")
			})
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			if got := tree.Environment()["NIX_LD"]; got != test.nixLD {
				t.Errorf("nix-ld starts %q, want %q", got, test.nixLD)
			}
		})
	}
}

// Where there is no C library, a directory that one package has for itself stays what it is.
func TestForeignLeavesDirectoriesLazy(t *testing.T) {
	tree := merged(t, makeStore(t, file{name: a + "/lib/x.so"}, file{name: a + "/libexec/nix-ld"}), one("a", 5, a))
	for _, dir := range []string{"lib", "libexec"} {
		if tree.root.children[dir].lazyDir == "" {
			t.Errorf("%s was looked into", dir)
		}
	}
}
