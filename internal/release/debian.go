package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The groups of files that Debian's packages ask for. _ssh has the number that addgroup --system
// gives the first one.
const (
	gidMail   = 8
	gidShadow = 42
	gidUtmp   = 43
	gidSSH    = 101
)

// excluded are the documents that debian:trixie-slim leaves out, too. dpkg goes on leaving them out.
var excluded = []string{
	"usr/share/doc/", "usr/share/groff/", "usr/share/info/", "usr/share/linda/", "usr/share/lintian/",
	"usr/share/locale/", "usr/share/man/",
}

// isExcluded says if the packages' file at name is left out. Licences and their directories stay.
// /var/lock and /var/run are left out, too, as the script of base-files makes links of them.
func isExcluded(name string, kind byte) bool {
	if name == "var/lock" || name == "var/run" {
		return true
	}
	if strings.HasPrefix(name, "usr/share/doc/") && (kind == tar.TypeDir || strings.HasSuffix(name, "/copyright")) {
		return false
	}
	for _, directory := range excluded {
		if strings.HasPrefix(name, directory) {
			return true
		}
	}
	return false
}

// keep says if the content of a file is wanted when all packages are unpacked: what others are made
// from.
func keep(name string) bool {
	for _, prefix := range []string{
		"etc/skel/", "usr/share/base-files/", "usr/share/base-passwd/", "usr/share/ca-certificates/",
		"usr/share/debianutils/", "usr/share/libc-bin/", "usr/share/readline/",
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasPrefix(name, "etc/") // among these are the conffiles
}

// writeDebian writes the file system of an image without the registry: the packages, dpkg's
// database, and what maintainer scripts and the Dockerfile would have made.
func writeDebian(t *tree, dir string, packages []lockedPackage, architecture string) error {
	if len(packages) == 0 {
		return errors.New("the lock file has no packages for it")
	}
	database := &dpkgDatabase{architecture: architecture}
	// base-files brings the directories that others go to, and the links /bin, /lib and /sbin.
	first := func(p lockedPackage) bool { return p.name == "base-files" }
	for _, pass := range []bool{true, false} {
		for _, locked := range packages {
			if first(locked) != pass {
				continue
			}
			d, err := openDeb(dir, locked)
			if err != nil {
				return err
			}
			listed, err := unpack(t, d)
			if err != nil {
				return fmt.Errorf("unpacking %s %s: %w", d.name, d.version, err)
			}
			database.add(d, listed)
		}
	}
	makeFiles(t)
	makeAccounts(t)
	makeCertificates(t)
	makeAlternatives(t)
	makeDirectories(t)
	database.write(t)
	return t.err
}

// unpack writes the files of a package, and returns the paths that it has in dpkg's lists.
func unpack(t *tree, d *deb) (listed []string, err error) {
	for entries := tar.NewReader(d.data); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return listed, t.err
		} else if err != nil {
			return nil, err
		}
		listed = append(listed, listedName(header.Name))
		name := plain(header.Name)
		if isExcluded(name, header.Typeflag) {
			continue
		}
		if name == "usr/bin/ssh-agent" { // which openssh-client's script hands to its group
			header.Gid, header.Mode = gidSSH, 0o2755
		}
		t.add(header, entries)
	}
}

// listedName is a path as dpkg writes it: /. for the root.
func listedName(name string) string {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "."), "/")
	if name == "" {
		return "/."
	}
	return name
}
