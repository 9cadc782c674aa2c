package rootfs

import (
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
)

// maxEtcBytes bounds a file of etcFiles: each one that a package brings, and what is made of
// several.
const maxEtcBytes = 1 << 20

// An etcFile is a file of /etc that is a regular file in images, while others are links into the
// store. Runtimes and the tools of libc do not follow links that lead out of the root directory, or
// write over the file.
type etcFile struct {
	name string
	mode int64
	// own is what images have if no package brings the file. Without it they do not have one,
	// unless it is mounted.
	own string
	// mounted says that runtimes mount a file of their own over it. That can't be done in an image
	// that is not writable and lacks the file.
	mounted bool
	// lines is how the lines of several packages become one file. Without it, the file of the best
	// priority is taken.
	lines *accountLines
}

// etcFiles are sorted by name. Passwords are for root alone: in a store all files have one mode.
func etcFiles() []etcFile {
	const ownGroups = "root:x:0:\nnobody:x:65534:\n"
	const ownUsers = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/var/empty:/bin/false\n"
	return []etcFile{
		{name: "group", mode: 0o644, own: ownGroups, lines: &accountLines{fields: "ntit", unique: true}},
		{name: "gshadow", mode: 0o600, lines: &accountLines{fields: "nttt", unique: true}},
		{name: "hostname", mode: 0o644, mounted: true},
		{name: "hosts", mode: 0o644, mounted: true},
		{name: "nsswitch.conf", mode: 0o644, own: "hosts: files dns\n"},
		{name: "passwd", mode: 0o644, own: ownUsers, lines: &accountLines{fields: "ntiittt", unique: true}},
		{name: "resolv.conf", mode: 0o644, mounted: true},
		{name: "shadow", mode: 0o600, lines: &accountLines{fields: "ntttttttt", unique: true}},
		{name: "subgid", mode: 0o644, lines: &accountLines{fields: "occ"}},
		{name: "subuid", mode: 0o644, lines: &accountLines{fields: "occ"}},
	}
}

// Kept tells whether a listing of a store path keeps the content of a regular file, because root
// layers are made of it. The name is relative to the store path; it is empty if that is a file
// itself, which links of a package may lead to.
func Kept(name string) bool {
	if name == "" || name == propagatedFile || name == neededFile {
		return true
	}
	dir, base := path.Split(name)
	return path.Base(dir) == "etc" &&
		slices.ContainsFunc(etcFiles(), func(f etcFile) bool { return f.name == base })
}

func (m *merger) isEtcFile(name string) bool {
	_, ok := m.etc[name]
	return ok
}

// etcFiles puts the files of etcFiles into /etc. A package's link to one is followed to its end
// within the closure. A package whose link leads elsewhere, or to no regular file, does not bring
// it.
func (m *merger) etcFiles(ctx context.Context) error {
	etc := m.root.children["etc"]
	for _, f := range etcFiles() {
		content, ok, err := m.etcFile(ctx, f)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if len(content) > maxEtcBytes {
			return &layer.UnfitError{
				Path: "etc/" + f.name, Reason: fmt.Sprintf("it is larger than %d bytes", maxEtcBytes),
			}
		}
		if err := m.put(etc, f.name, &node{content: content, mode: f.mode}); err != nil {
			return err
		}
	}
	return nil
}

// etcFile returns what an image has as the file, if it has one.
func (m *merger) etcFile(ctx context.Context, f etcFile) (content string, ok bool, err error) {
	var brought []string // the best priority first
	for _, source := range m.etc[f.name] {
		real, file, err := m.sources.resolve(ctx, source)
		if err != nil {
			return "", false, err
		}
		if file == nil || !file.Type.IsRegular() {
			continue
		}
		rel, _ := m.sources.inStore(real)
		content, err := m.sources.files.ReadFile(ctx, rel, maxEtcBytes)
		if err != nil {
			return "", false, err
		}
		if f.lines == nil {
			return string(content), true, nil
		}
		brought = append(brought, string(content))
	}
	if content = f.own; f.lines != nil {
		content = f.lines.merge(f.own, brought)
	}
	return content, content != "" || f.mounted, nil
}
