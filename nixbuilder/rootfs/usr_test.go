package rootfs

import (
	"slices"
	"strings"
	"testing"
)

// Programs have a second name in /usr, which leads to the first. What packages have there is
// theirs.
func TestUsr(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []file
		want  []string // the links and programs in /usr/bin and /usr/sbin
	}{
		{"programs", []file{{name: a + "/bin/x"}, {name: b + "/bin/y"}},
			[]string{"usr/bin/x -> ../../bin/x", "usr/bin/y -> ../../bin/y"}},
		{"what the registry adds", []file{{name: a + "/bin/bash"}},
			[]string{"usr/bin/bash -> ../../bin/bash", "usr/bin/sh -> ../../bin/sh"}},
		{"a package's own", []file{{name: a + "/bin/x"}, {name: a + "/bin/y"}, {name: b + "/usr/bin/x"}},
			[]string{"usr/bin/x -> " + b + "/usr/bin/x", "usr/bin/y -> ../../bin/y"}},
		{"a package's own that leads nowhere", []file{{name: a + "/bin/x"}, {name: b + "/usr/bin/x", link: "none"}},
			[]string{"usr/bin/x -> " + b + "/usr/bin/x"}},
		{"no directories", []file{{name: a + "/bin/dir/x"}, {name: a + "/bin/x"}},
			[]string{"usr/bin/x -> ../../bin/x"}},
		{"a directory of a package's own", []file{{name: a + "/bin/x"}, {name: b + "/usr/bin/x/y"}},
			[]string{"usr/bin/x/ 0755", "usr/bin/x/y -> " + b + "/usr/bin/x/y"}},
		{"usr is the package itself", []file{{name: a + "/bin/x"}, {name: a + "/usr", link: "."}, {name: b + "/bin/y"}},
			[]string{"usr/bin/x -> " + a + "/bin/x", "usr/bin/y -> ../../bin/y"}},
		{"usr/bin is a link to bin", []file{{name: a + "/bin/x"}, {name: a + "/usr/bin", link: "../bin"}},
			[]string{"usr/bin/x -> " + a + "/bin/x"}},
		{"sbin is a link to bin, as nixpkgs has it", []file{{name: a + "/bin/x"}, {name: a + "/sbin", link: "bin"}},
			[]string{"usr/bin/x -> ../../bin/x", "usr/sbin/x -> ../../sbin/x"}},
		{"sbin alone", []file{{name: a + "/sbin/x"}}, []string{"usr/sbin/x -> ../../sbin/x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := makeStore(t, append(test.files, file{name: a + "/"}, file{name: b + "/"})...)
			got := list(t, merged(t, root, one("a", 5, a), one("b", 5, b)))
			got = slices.DeleteFunc(got, func(line string) bool {
				return !strings.HasPrefix(line, "usr/bin/") && !strings.HasPrefix(line, "usr/sbin/") ||
					line == "usr/bin/ 0755" || line == "usr/sbin/ 0755"
			})
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%q\nwant\n%q", got, test.want)
			}
		})
	}
}
