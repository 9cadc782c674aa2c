package rootfs

import (
	"slices"
	"strings"
	"testing"
)

func TestOwnFiles(t *testing.T) {
	own := OwnFile{Name: "etc/os-release", Instead: "usr/lib/os-release", Content: "ID=nix\n"}
	const itself = `etc/os-release 0644 "ID=nix\n"`
	for _, test := range []struct {
		name  string
		files []file
		want  []string
	}{
		{name: "no package has it", want: []string{itself}},
		{
			name: "one has", files: []file{{name: a + "/etc/os-release"}},
			want: []string{"etc/os-release -> " + a + "/etc/os-release"},
		},
		{
			name: "one has what serves as well", files: []file{{name: a + "/usr/lib/os-release"}},
			want: []string{"usr/lib/os-release -> " + a + "/usr/lib/os-release"},
		},
		{
			name: "one has a link that leads nowhere instead", files: []file{{name: a + "/usr/lib/os-release", link: "no"}},
			want: []string{itself, "usr/lib/os-release -> " + a + "/usr/lib/os-release"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := NewStoreFiles(makeStore(t, append(test.files, file{name: a + "/"})...))
			tree, err := Merge(t.Context(), []Package{one("a", 5, a)}, closure, files, own)
			if err != nil {
				t.Fatal(err)
			}
			got := list(t, tree)
			got = slices.DeleteFunc(got, func(line string) bool { return !strings.Contains(line, "os-release") })
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}
