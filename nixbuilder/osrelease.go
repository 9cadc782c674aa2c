package nixbuilder

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// releaseFile is the file of a package set that names its release, as that of nixpkgs does.
const releaseFile = ".version"

// maxRelease is how many bytes of that file are read. A release has up to 64.
const maxRelease = 100

// release matches a VERSION_ID as os-release(5) has it.
var release = regexp.MustCompile(`^[0-9a-z][0-9a-z._-]{0,63}$`)

// releaseOf returns the release of a package set that is leased, or "" if the set does not name one.
// It is the same for many revisions, so that updates leave root layers alone that are otherwise the
// same (docs/decisions/os-release.md).
func releaseOf(pinned source.Pinned) (string, error) {
	info, err := os.Stat(pinned.Path)
	if err != nil {
		return "", fmt.Errorf("looking for the release of the package set: %w", err)
	}
	if !info.IsDir() {
		return "", nil
	}
	root, err := os.OpenRoot(pinned.Path)
	if err != nil {
		return "", fmt.Errorf("looking for the release of the package set: %w", err)
	}
	defer root.Close()
	if info, err = root.Stat(releaseFile); err != nil || !info.Mode().IsRegular() { // or a link out of the set
		return "", nil
	}
	file, err := root.Open(releaseFile)
	if err != nil {
		return "", fmt.Errorf("reading the release of the package set: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxRelease))
	if err != nil {
		return "", fmt.Errorf("reading the release of the package set: %w", err)
	}
	return release.FindString(strings.TrimSpace(string(text))), nil
}

// osRelease is the file by which programs tell what they run on. It does not say that this is NixOS,
// which has much that images lack.
func osRelease(release string) rootfs.OwnFile {
	const name = "Nix packages"
	content := fmt.Sprintf("ID=nix\nNAME=%q\nPRETTY_NAME=%q\n", name, strings.TrimSpace(name+" "+release))
	if release != "" {
		content += fmt.Sprintf("VERSION_ID=%q\n", release)
	}
	return rootfs.OwnFile{Name: "etc/os-release", Instead: "usr/lib/os-release", Content: content}
}
