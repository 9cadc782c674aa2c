package nar

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// A Lister makes the listing of an archive, for ParseListing: some bytes for each entry, without
// the content of files. Nix's own format (JSON, as of `nix nar ls`) is larger.
type Lister struct {
	// Keep tells of the path of a file whether its content belongs to the listing. Of files larger
	// than 1 MiB, and of those after the first 4 MiB, it does not.
	Keep func(path string) bool
	// Max bounds the size of the listing, in bytes.
	Max int

	listing []byte
	kept    int64 // bytes of content
	full    bool
}

// maxKept bounds the size of a file whose content is in a listing; maxAllKept that of all of them.
const (
	maxKept    = 1 << 20
	maxAllKept = 4 << 20
)

// The kinds of entries in a listing.
const (
	listedFile    = 'f'
	listedKept    = 'k'
	listedSymlink = 'l'
	listedDir     = 'd'
)

// Add adds an entry. Entries must be added in the order of Read. If e is a file to keep, Add reads
// its content and puts another reader of it in its place.
func (l *Lister) Add(e *Entry) error {
	kind, text := byte(listedFile), ""
	switch {
	case e.Mode.IsDir():
		kind = listedDir
	case e.Mode.Type() == fs.ModeSymlink:
		kind, text = listedSymlink, e.Target
	case l.Keep != nil && e.Size <= min(maxKept, maxAllKept-l.kept) && l.Keep(e.Path):
		l.kept += e.Size
		content := make([]byte, e.Size)
		if _, err := io.ReadFull(e.Content, content); err != nil {
			return fmt.Errorf("reading %q: %w", e.Path, err)
		}
		e.Content = bytes.NewReader(content)
		kind, text = listedKept, string(content)
	}
	depth, name := 0, e.Path
	if e.Path != "" {
		depth, name = 1+strings.Count(e.Path, "/"), e.Path[strings.LastIndexByte(e.Path, '/')+1:]
	}
	l.full = l.full || len(l.listing)+len(name)+len(text)+16 > l.Max
	if l.full {
		return nil
	}
	l.listing = append(l.listing, kind)
	l.listing = binary.AppendUvarint(l.listing, uint64(depth))
	for _, s := range []string{name, text} {
		l.listing = binary.AppendUvarint(l.listing, uint64(len(s)))
		l.listing = append(l.listing, s...)
	}
	return nil
}

// Bytes returns the listing, or false if it would be larger than Max.
func (l *Lister) Bytes() ([]byte, bool) { return l.listing, !l.full }

// A Listing is a file, directory or symbolic link of an archive, with all that is below it.
type Listing struct {
	Name string // without the directories before it; that of the store path itself is empty
	Type fs.FileMode
	// Target is the target of a symbolic link.
	Target string
	// Content is the content of a file to keep (Lister.Keep). It is nil for all others.
	Content *string
	// Children are sorted by Name.
	Children []*Listing
}

// ParseListing reads a listing that a Lister has made.
func ParseListing(b []byte) (*Listing, error) {
	rest := string(b) // names are parts of this string
	var path []*Listing
	for rest != "" {
		kind := rest[0]
		depth, after, err := uvarint(rest[1:])
		if err != nil {
			return nil, err
		}
		node := new(Listing)
		var text string
		if node.Name, after, err = listedText(after); err != nil {
			return nil, err
		}
		if text, rest, err = listedText(after); err != nil {
			return nil, err
		}
		switch kind {
		case listedFile:
		case listedKept:
			node.Content = &text
		case listedSymlink:
			node.Type, node.Target = fs.ModeSymlink, text
		case listedDir:
			node.Type = fs.ModeDir
		default:
			return nil, fmt.Errorf("parsing listing: unknown kind %q", kind)
		}
		if depth > uint64(len(path)) || (depth == 0) != (len(path) == 0) {
			return nil, fmt.Errorf("parsing listing: %q is nowhere", node.Name)
		}
		if path = path[:depth]; depth > 0 {
			parent := path[depth-1]
			if last := len(parent.Children) - 1; parent.Type != fs.ModeDir ||
				last >= 0 && parent.Children[last].Name >= node.Name {
				return nil, fmt.Errorf("parsing listing: %q is out of order", node.Name)
			}
			parent.Children = append(parent.Children, node)
		}
		path = append(path, node)
	}
	if len(path) == 0 {
		return nil, errors.New("parsing listing: it is empty")
	}
	return path[0], nil
}

func uvarint(s string) (uint64, string, error) {
	n, length := binary.Uvarint([]byte(s[:min(len(s), binary.MaxVarintLen64)]))
	if length <= 0 {
		return 0, "", errors.New("parsing listing: it is cut off")
	}
	return n, s[length:], nil
}

func listedText(s string) (text, rest string, err error) {
	n, s, err := uvarint(s)
	if err == nil && n > uint64(len(s)) {
		err = errors.New("parsing listing: it is cut off")
	}
	if err != nil {
		return "", "", err
	}
	return s[:n], s[n:], nil
}

// Find returns the entry of a path relative to l, or nil. It follows no links.
func (l *Listing) Find(path string) *Listing {
	if path == "" {
		return l
	}
	byName := func(child *Listing, name string) int { return cmp.Compare(child.Name, name) }
	for name := range strings.SplitSeq(path, "/") {
		i, ok := slices.BinarySearchFunc(l.Children, name, byName)
		if !ok {
			return nil
		}
		l = l.Children[i]
	}
	return l
}
