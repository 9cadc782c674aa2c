package main

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// The accounts of the Dockerfile: the registry's, and the one that builds in a container beside it.
const (
	uidRegistry = 1000
	uidNix      = 1001
)

// sources is where apt in a container gets packages from.
const sources = `Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp
`

// makeFiles makes what the scripts of base-files, debianutils, libc-bin, libpam-modules,
// readline-common and tzdata copy, write and link, and the configuration of apt, dpkg and Nix.
func makeFiles(t *tree) {
	for _, file := range []struct{ name, source string }{
		{"etc/inputrc", "usr/share/readline/inputrc"},
		{"etc/motd", "usr/share/base-files/motd"},
		{"etc/nsswitch.conf", "usr/share/libc-bin/nsswitch.conf"},
		{"etc/profile", "usr/share/base-files/profile"},
		{"root/.bashrc", "usr/share/base-files/dot.bashrc"},
		{"root/.profile", "usr/share/base-files/dot.profile"},
		{"usr/share/info/dir", "usr/share/base-files/info.dir"},
	} {
		t.file(file.name, 0o644, 0, t.content(file.source))
	}
	shells := t.content("usr/share/debianutils/shells")
	for _, name := range t.keptBelow("usr/share/debianutils/shells.d/") {
		shells += t.content(name)
	}
	t.file("etc/shells", 0o644, 0, shells)
	t.file("etc/environment", 0o644, 0, "")
	t.file("etc/security/opasswd", 0o600, 0, "")
	t.file("var/log/btmp", 0o660, gidUtmp, "")
	t.file("var/log/lastlog", 0o664, gidUtmp, "")
	t.file("var/log/wtmp", 0o664, gidUtmp, "")
	t.link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
	t.link("etc/dpkg/origins/default", "debian")
	t.file("etc/apt/sources.list.d/debian.sources", 0o644, 0, sources)
	var exclude strings.Builder
	for _, directory := range excluded {
		fmt.Fprintf(&exclude, "path-exclude /%s*\n", directory)
	}
	t.file("etc/dpkg/dpkg.cfg.d/documents", 0o644, 0, exclude.String()+"path-include /usr/share/doc/*/copyright\n")
	t.directory("etc/nix", 0o755, 0, 0)
	t.file("etc/nix/nix.conf", 0o644, 0, "build-users-group =\nsandbox = false\n")
}

// makeAccounts makes /etc/passwd and its like, and the registry's home.
func makeAccounts(t *tree) {
	passwd := t.content("usr/share/base-passwd/passwd.master")
	group := t.content("usr/share/base-passwd/group.master") + fmt.Sprintf("_ssh:x:%d:\n", gidSSH)
	for _, account := range []struct {
		name, home string
		id         int
	}{{"registry", "/home/registry", uidRegistry}, {"nix", "/nonexistent", uidNix}} {
		passwd += fmt.Sprintf("%[1]s:!:%[2]d:%[2]d::%[3]s:/usr/sbin/nologin\n", account.name, account.id, account.home)
		group += fmt.Sprintf("%s:!:%d:\n", account.name, account.id)
	}
	const lastDayOfPassword = "%s:%s:%d:0:99999:7:::\n"
	day := int(t.made.Sub(time.Unix(0, 0)) / (24 * time.Hour))
	public, shadow := hidePasswords(passwd, func(name, password string) string {
		return fmt.Sprintf(lastDayOfPassword, name, password, day)
	})
	t.file("etc/passwd", 0o644, 0, public)
	t.file("etc/shadow", 0o640, gidShadow, shadow)
	public, shadow = hidePasswords(group, func(name, password string) string {
		return fmt.Sprintf("%s:%s::\n", name, password)
	})
	t.file("etc/group", 0o644, 0, public)
	t.file("etc/gshadow", 0o640, gidShadow, shadow)
	// Namespaces in which others than the registry's user are roots' want these.
	const ids = "registry:100000:65536\nnix:165536:65536\n"
	t.file("etc/subuid", 0o644, 0, ids)
	t.file("etc/subgid", 0o644, 0, ids)
	t.directory("home/registry", 0o700, uidRegistry, uidRegistry)
	for _, name := range t.keptBelow("etc/skel/") {
		t.ownedFile("home/registry/"+path.Base(name), t.content(name))
	}
}

// hidePasswords moves the second field of each line to a line of another file.
func hidePasswords(lines string, hidden func(name, password string) string) (public, shadow string) {
	for line := range strings.Lines(lines) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) != 3 {
			continue
		}
		password := fields[1]
		if password == "x" {
			password = "!"
		}
		public += fields[0] + ":x:" + fields[2]
		shadow += hidden(fields[0], password)
	}
	return public, shadow
}

// makeCertificates makes what update-ca-certificates makes of Mozilla's certificates, but for the
// links by hash: the programs of the image read the bundle.
func makeCertificates(t *tree) {
	const source = "usr/share/ca-certificates/"
	plainName := strings.NewReplacer(" ", "_", "(", "=", ")", "=", ",", "_")
	var list, bundle strings.Builder
	for _, file := range t.keptBelow(source) {
		if path.Ext(file) != ".crt" {
			continue
		}
		fmt.Fprintln(&list, strings.TrimPrefix(file, source))
		name := plainName.Replace(strings.TrimSuffix(path.Base(file), ".crt"))
		t.link("etc/ssl/certs/"+name+".pem", "/"+file)
		bundle.WriteString(strings.TrimSuffix(t.content(file), "\n") + "\n")
	}
	t.file("etc/ca-certificates.conf", 0o644, 0, list.String())
	t.file("etc/ssl/certs/ca-certificates.crt", 0o644, 0, bundle.String())
}

// makeAlternatives makes the links and the records of update-alternatives, without those of
// manuals.
func makeAlternatives(t *tree) {
	for _, alternative := range []struct {
		link, target string
		priority     int
		others       map[string]string // links that go with it, by their targets
	}{
		{"/usr/bin/awk", "/usr/bin/mawk", 5, map[string]string{"/usr/bin/nawk": "/usr/bin/mawk"}},
		{"/usr/bin/lzma", "/usr/bin/xz", 20, map[string]string{
			"/usr/bin/lzcat": "/usr/bin/xzcat", "/usr/bin/lzcmp": "/usr/bin/xzcmp",
			"/usr/bin/lzdiff":  "/usr/bin/xzdiff",
			"/usr/bin/lzegrep": "/usr/bin/xzegrep", "/usr/bin/lzfgrep": "/usr/bin/xzfgrep",
			"/usr/bin/lzgrep": "/usr/bin/xzgrep", "/usr/bin/lzless": "/usr/bin/xzless",
			"/usr/bin/lzmore": "/usr/bin/xzmore", "/usr/bin/unlzma": "/usr/bin/unxz",
		}},
		{"/usr/bin/pager", "/bin/more", 50, nil},
		{"/usr/sbin/rmt", "/usr/sbin/rmt-tar", 50, nil},
		{"/usr/bin/which", "/usr/bin/which.debianutils", 0, nil},
	} {
		choose := func(link, target string) {
			t.link(link, "/etc/alternatives/"+path.Base(link))
			t.link("etc/alternatives/"+path.Base(link), target)
		}
		choose(alternative.link, alternative.target)
		var links, targets string
		for _, link := range slices.Sorted(maps.Keys(alternative.others)) {
			choose(link, alternative.others[link])
			links += path.Base(link) + "\n" + link + "\n"
			targets += alternative.others[link] + "\n"
		}
		t.file("var/lib/dpkg/alternatives/"+path.Base(alternative.link), 0o644, 0, fmt.Sprintf(
			"auto\n%s\n%s\n%s\n%d\n%s\n", alternative.link, links, alternative.target, alternative.priority, targets))
	}
}

// makeDirectories makes those of base-files, and the Dockerfile's.
func makeDirectories(t *tree) {
	for _, name := range []string{
		"media", "mnt", "opt", "srv", "etc/opt", "var/opt", "usr/local", "usr/local/bin", "usr/local/etc",
		"usr/local/games", "usr/local/include", "usr/local/lib", "usr/local/libexec", "usr/local/sbin",
		"usr/local/share", "usr/local/share/ca-certificates", "usr/local/share/man", "usr/local/src",
	} {
		t.directory(name, 0o755, 0, 0)
	}
	t.link("usr/local/man", "share/man")
	t.directory("var/mail", 0o2775, 0, gidMail)
	t.link("var/spool/mail", "../mail")
	t.link("var/lock", "/run/lock")
	t.link("var/run", "/run")
	t.directory("run/lock", 0o1777, 0, 0)
	for _, name := range []string{
		"nix", "nix/store", "nix/var", "nix/var/nix", "var/lib/registry", "var/cache/nixery-registry",
	} {
		t.directory(name, 0o755, uidRegistry, uidRegistry)
	}
}
