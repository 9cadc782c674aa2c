package rootfs

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestData has packages bring data of each kind. Without them, an image has neither the variable
// nor the link.
func TestData(t *testing.T) {
	const ca = "/etc/ssl/certs/ca-bundle.crt"
	const dataDirs = "/share:/usr/local/share:/usr/share"
	for _, test := range []struct {
		name  string
		files []file
		want  map[string]string // variables
		has   []string          // what an image without packages does not have, but for links into packages
	}{
		{"nothing", []file{{name: a + "/bin/x"}, {name: a + "/share/x"}}, nil, []string{"share/ 0755"}},
		{
			"certificates", []file{{name: a + ca}}, map[string]string{"SSL_CERT_FILE": ca},
			[]string{
				"etc/pki/ 0755", "etc/pki/tls/ 0755", "etc/pki/tls/certs/ 0755",
				"etc/pki/tls/certs/ca-bundle.crt -> ../../../../etc/ssl/certs/ca-bundle.crt",
				"etc/ssl/ 0755", "etc/ssl/cert.pem -> ../../etc/ssl/certs/ca-bundle.crt", "etc/ssl/certs/ 0755",
				"etc/ssl/certs/ca-certificates.crt -> ../../../etc/ssl/certs/ca-bundle.crt",
			},
		},
		{"a directory in their place", []file{{name: a + ca + "/x"}}, nil,
			[]string{"etc/ssl/ 0755", "etc/ssl/certs/ 0755", "etc/ssl/certs/ca-bundle.crt/ 0755"}},
		{
			"time zones", []file{{name: a + "/share/zoneinfo/UTC"}}, map[string]string{"TZDIR": "/share/zoneinfo"},
			[]string{
				"share/ 0755", "share/zoneinfo/ 0755", "usr/share/ 0755", "usr/share/zoneinfo -> ../../share/zoneinfo",
			},
		},
		{
			"time zones in both places",
			[]file{{name: a + "/share/zoneinfo/UTC"}, {name: b + "/usr/share/zoneinfo/GMT"}},
			map[string]string{"TZDIR": "/share/zoneinfo"},
			[]string{"share/ 0755", "share/zoneinfo/ 0755", "usr/share/ 0755", "usr/share/zoneinfo/ 0755"},
		},
		{"a file in their place", []file{{name: a + "/share/zoneinfo"}}, nil, []string{"share/ 0755"}},
		{
			"a file where the link would be", []file{{name: a + "/share/zoneinfo/UTC"}, {name: a + "/usr/share"}},
			map[string]string{"TZDIR": "/share/zoneinfo"}, []string{"share/ 0755", "share/zoneinfo/ 0755"},
		},
		{
			"locales", []file{{name: a + "/lib/locale/locale-archive"}},
			map[string]string{"LOCALE_ARCHIVE": "/lib/locale/locale-archive"},
			[]string{
				"lib/ 0755", "lib/locale/ 0755", "usr/lib/ 0755", "usr/lib/locale/ 0755",
				"usr/lib/locale/locale-archive -> ../../../lib/locale/locale-archive",
			},
		},
		{
			"fonts", []file{{name: a + "/share/fonts/truetype/x.ttf"}},
			map[string]string{"FONTCONFIG_FILE": "/etc/fonts/fonts.conf"},
			[]string{
				"etc/fonts/ 0755", "etc/fonts/conf.d/ 0755", "etc/fonts/conf.d/00-packages.conf 0644",
				"etc/fonts/fonts.conf 0644", "share/ 0755", "share/fonts/ 0755", "share/fonts/truetype/ 0755",
			},
		},
		{
			"fonts and fontconfig's files",
			[]file{
				{name: a + "/share/fonts/x.ttf"},
				{name: b + "/etc/fonts/fonts.conf"}, {name: b + "/etc/fonts/conf.d/10.conf"},
			},
			map[string]string{"FONTCONFIG_FILE": "/etc/fonts/fonts.conf"},
			[]string{
				"etc/fonts/ 0755", "etc/fonts/conf.d/ 0755", "etc/fonts/conf.d/00-packages.conf 0644", "share/ 0755",
				"share/fonts/ 0755",
			},
		},
		{
			"terminals", []file{{name: a + "/share/terminfo/x/xterm"}},
			map[string]string{"TERMINFO_DIRS": "/share/terminfo:"},
			[]string{
				"share/ 0755", "share/terminfo/ 0755", "share/terminfo/x/ 0755", "usr/share/ 0755",
				"usr/share/terminfo -> ../../share/terminfo",
			},
		},
		{"manuals", []file{{name: a + "/share/man/man1/x.1"}, {name: a + "/share/info/x.info"}}, nil,
			[]string{"share/ 0755", "share/info/ 0755", "share/man/ 0755", "share/man/man1/ 0755"}},
		{
			"manuals and what shows them",
			[]file{
				{name: a + "/share/man/man1/x.1"}, {name: b + "/bin/man"}, {name: b + "/bin/info"},
				{name: b + "/share/info/x.info"},
			},
			map[string]string{"MANPATH": "/share/man:", "INFOPATH": "/share/info:"},
			[]string{
				"share/ 0755", "share/info/ 0755", "share/man/ 0755", "share/man/man1/ 0755", "usr/share/ 0755",
				"usr/share/man -> ../../share/man",
			},
		},
		{"kinds of files", []file{{name: a + "/share/mime/x"}}, map[string]string{"XDG_DATA_DIRS": dataDirs},
			[]string{"share/ 0755", "share/mime/ 0755"}},
		{
			"completions alone", []file{{name: a + "/share/bash-completion/completions/x"}}, nil,
			[]string{"share/ 0755", "share/bash-completion/ 0755", "share/bash-completion/completions/ 0755"},
		},
		{
			"what completes", []file{{name: a + "/share/bash-completion/bash_completion"}},
			map[string]string{"XDG_DATA_DIRS": dataDirs}, []string{"share/ 0755", "share/bash-completion/ 0755"},
		},
		{"data behind a link", []file{{name: a + "/share", link: b + "/data"}, {name: b + "/data/zoneinfo/UTC"}},
			map[string]string{"TZDIR": "/share/zoneinfo"},
			[]string{"usr/share/ 0755", "usr/share/zoneinfo -> ../../share/zoneinfo"}},
		{"data outside the closure", []file{{name: a + "/share", link: "/usr/share"}}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			packages := []Package{one("a", 5, a)}
			if slices.ContainsFunc(test.files, func(f file) bool { return strings.HasPrefix(f.name, b) }) {
				packages = append(packages, one("b", 5, b))
			}
			if test.name == "data behind a link" {
				packages = packages[:1]
			}
			tree := merged(t, makeStore(t, test.files...), packages...)
			if got := tree.Environment(); !maps.Equal(got, test.want) {
				t.Errorf("the variables are %v, want %v", got, test.want)
			}
			base := list(t, merged(t, makeStore(t)))
			var got []string
			for _, entry := range list(t, tree) {
				if strings.Contains(entry, " -> /nix/store/") || slices.Contains(base, entry) ||
					strings.HasPrefix(entry, "usr/bin/") { // see TestUsr
					continue
				}
				if name, _, isFile := strings.Cut(entry, ` "`); isFile {
					entry = name
				}
				got = append(got, entry)
			}
			slices.Sort(got)
			if !slices.Equal(got, test.has) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.has, "\n"))
			}
		})
	}
}
