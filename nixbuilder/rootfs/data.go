package rootfs

import (
	"cmp"
	"context"
	"path"
	"strings"
)

// CABundle is the file in which nixpkgs' cacert has the certificates, and programs of Nix look for
// them.
const CABundle = "etc/ssl/certs/ca-bundle.crt"

// Packages have their fonts in fontsDir, and fontconfig reads fontsConf.
const (
	fontsDir  = "share/fonts/"
	fontsConf = "etc/fonts/fonts.conf"
)

// fontsInclude has fontconfig look for the fonts of packages. The fonts.conf files of nixpkgs and of
// Debian read all files beside it.
const fontsInclude = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig><dir>/share/fonts</dir></fontconfig>
`

// fontsDefault stands in for a fonts.conf where no package brings one.
const fontsDefault = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir prefix="xdg">fonts</dir>
  <dir>/usr/share/fonts</dir>
  <dir>/usr/local/share/fonts</dir>
  <include ignore_missing="yes">/etc/fonts/conf.d</include>
  <cachedir>/var/cache/fontconfig</cachedir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
`

// data lets programs find certificates, time zones, fonts and the like where packages have brought
// them: at the places that are compiled into programs of other systems, by links, and by variables.
// Links are single ones, since an image on top may bring a directory of the same name.
func (m *merger) data(ctx context.Context) error {
	if err := m.fonts(ctx); err != nil {
		return err
	}
	for _, l := range []struct{ name, of, with string }{
		{"etc/ssl/certs/ca-certificates.crt", CABundle, ""}, // Debian's name
		{"etc/ssl/cert.pem", CABundle, ""},                  // that of Alpine and the BSDs
		{"etc/pki/tls/certs/ca-bundle.crt", CABundle, ""},   // Fedora's
		{"usr/share/zoneinfo", "share/zoneinfo/", ""},
		{"usr/share/terminfo", "share/terminfo/", ""},
		{"usr/share/man", "share/man/", "bin/man"},
		{"usr/lib/locale/locale-archive", "lib/locale/locale-archive", ""},
	} {
		if err := m.alias(ctx, l.name, l.of, l.with); err != nil {
			return err
		}
	}
	const dataDirs = "/share:/usr/local/share:/usr/share" // the default, and ours
	for _, v := range []struct{ variable, value, of, with string }{
		{"SSL_CERT_FILE", "/" + CABundle, CABundle, ""},
		{"TZDIR", "/share/zoneinfo", "share/zoneinfo/", ""},
		{"LOCALE_ARCHIVE", "/lib/locale/locale-archive", "lib/locale/locale-archive", ""},
		{"FONTCONFIG_FILE", "/" + fontsConf, fontsConf, ""},
		// Of these three, a colon at the end stands for the default.
		{"TERMINFO_DIRS", "/share/terminfo:", "share/terminfo/", ""},
		{"MANPATH", "/share/man:", "share/man/", "bin/man"},
		{"INFOPATH", "/share/info:", "share/info/", "bin/info"},
		{"XDG_DATA_DIRS", dataDirs, "share/mime/", ""},
		{"XDG_DATA_DIRS", dataDirs, "share/glib-2.0/schemas/", ""},
		{"XDG_DATA_DIRS", dataDirs, "share/bash-completion/bash_completion", ""},
	} {
		if ok, err := m.has(ctx, v.of, v.with); err != nil {
			return err
		} else if ok {
			m.environment[v.variable] = v.value
		}
	}
	return nil
}

// alias makes name a link to of, if the image has of and with, and nothing of that name.
func (m *merger) alias(ctx context.Context, name, of, with string) error {
	if ok, err := m.has(ctx, of, with); err != nil || !ok {
		return err
	}
	target := strings.Repeat("../", strings.Count(name, "/")) + strings.TrimSuffix(of, "/")
	return m.addBelow(ctx, name, &node{link: target})
}

// fonts lets fontconfig find the fonts of packages.
func (m *merger) fonts(ctx context.Context) error {
	if ok, err := m.has(ctx, fontsDir, ""); err != nil || !ok {
		return err
	}
	return cmp.Or(
		m.addBelow(ctx, path.Dir(fontsConf)+"/conf.d/00-packages.conf", &node{content: fontsInclude, mode: 0o644}),
		m.addBelow(ctx, fontsConf, &node{content: fontsDefault, mode: 0o644}),
	)
}

// has reports whether the image has of and with: directories, if they end in a slash, else files.
// With may be empty.
func (m *merger) has(ctx context.Context, of, with string) (bool, error) {
	for _, name := range []string{with, of} {
		if name == "" {
			continue
		}
		name, isDir := strings.CutSuffix(name, "/")
		here, err := m.lookUp(ctx, name)
		if err != nil || isDir && len(here.dirs) == 0 || !isDir && !here.file {
			return false, err
		}
	}
	return true, nil
}

// addBelow puts child under name, unless something is there or a file is in the place of its
// directory. That directory is made if it has to be.
func (m *merger) addBelow(ctx context.Context, name string, child *node) error {
	parent, err := m.makeDir(ctx, path.Dir(name))
	if err != nil || parent == nil || parent.children[path.Base(name)] != nil {
		return err
	}
	return m.put(parent, path.Base(name), child)
}

// makeDir returns the directory called name, for it to be changed. It makes those that are missing,
// and returns nil if a file is in the place of one.
func (m *merger) makeDir(ctx context.Context, name string) (*node, error) {
	n := m.root
	for c := range strings.SplitSeq(name, "/") {
		sub, err := m.open(ctx, n, c)
		if err == nil && sub == nil && n.children[c] == nil {
			sub, err = m.mkdir(n, c)
		}
		if err != nil || sub == nil {
			return nil, err
		}
		n = sub
	}
	return n, nil
}

// found is what has a name in the image: a file, or the directories of the store that are merged
// under that name.
type found struct {
	file bool
	dirs []string
}

// lookUp tells what is called name. It opens no lazy directory.
func (m *merger) lookUp(ctx context.Context, name string) (found, error) {
	n := m.root
	for {
		first, rest, more := strings.Cut(name, "/")
		here := n.children[first]
		switch {
		case here == nil:
			return found{}, nil
		case here.lazyDir != "" || here.link != "":
			real, file, err := m.sources.resolve(ctx, path.Join(cmp.Or(here.lazyDir, here.link), rest))
			switch {
			case err != nil || file == nil:
				return found{}, err
			case file.Type.IsDir():
				return found{dirs: []string{real}}, nil
			}
			return found{file: true}, nil
		case !here.isDir():
			return found{file: !more}, nil
		case !more:
			return found{dirs: here.merged}, nil
		}
		n, name = here, rest
	}
}
