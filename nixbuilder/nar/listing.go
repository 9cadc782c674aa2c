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

// A Lister writes down what an archive holds, but for the content of files: some bytes for each,
// which ParseListing reads.
type Lister struct {
	// Keep tells, by path, which files' content belongs to the listing, up to MaxKept bytes each.
	Keep string
	// Max is how large the listing may become, in bytes.
	Max int

	listing []byte
	full    bool
}

// maxKept is how large a file may be whose content is in a listing.
const maxKept = 1 << 20

// The kinds of entries in a listing.
const (
	listedFile    = 'f'
	listedKept    = 'k'
	listedSymlink = 'l'
	listedDir     = 'd'
)

// Add takes note of an entry, the next one that Read visits. If that is the file to keep, its
// content is read and put back.
func (l *Lister) Add(e *Entry) error {
	kind, text := byte(listedFile), ""
	switch {
	case e.Mode.IsDir():
		kind = listedDir
	case e.Mode.Type() == fs.ModeSymlink:
		kind, text = listedSymlink, e.Target
	case e.Path == l.Keep && e.Size <= maxKept:
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

// Bytes is the listing. It is false if that is larger than Max.
func (l *Lister) Bytes() ([]byte, bool) { return l.listing, !l.full }

// A Listing is what an archive holds.
type Listing struct {
	Name string // without the directories before it; that of the store path itself is empty
	Type fs.FileMode
	// Target is where a symbolic link leads to.
	Target string
	// Content is that of a file that was to be kept, else nil.
	Content *string
	// Children are sorted by Name.
	Children []*Listing
}

// ParseListing reads what a Lister has written.
func ParseListing(b []byte) (*Listing, error) {
	rest := string(b) // which all names are parts of
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
	for name := range strings.SplitSeq(path, "/") {
		i, ok := slices.BinarySearchFunc(
			l.Children, name, func(child *Listing, name string) int { return cmp.Compare(child.Name, name) },
		)
		if !ok {
			return nil
		}
		l = l.Children[i]
	}
	return l
}
