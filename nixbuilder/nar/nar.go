package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

const (
	magic = "nix-archive-1"
	// maxNameBytes is Linux's limit for a name.
	maxNameBytes = 255
	// maxPathBytes is Linux's limit for a path and for the target of a link, without the zero byte.
	// It bounds the depth, too.
	maxPathBytes = 4095
	// maxKeyword is larger than the length of any word of the format.
	maxKeyword = 16
)

// An Entry is a file, directory or symbolic link of an archive.
type Entry struct {
	// Path is relative to the store path, without a leading slash. It is empty for the store path
	// itself.
	Path string
	// Mode is the mode in the Nix store: 0444 or 0555 for a file, 0555 with fs.ModeDir for a
	// directory, 0777 with fs.ModeSymlink for a symbolic link.
	Mode fs.FileMode
	// Target is the target of a symbolic link.
	Target string
	// Size is the size of a file in bytes. Content is its content, which can be read until visit
	// returns. It is nil for directories and symbolic links.
	Size    int64
	Content io.Reader
}

// Read reads an archive from r and calls visit for all that is in it, directories before their
// content. An error of visit ends it and is returned. An archive that ends too early is
// io.ErrUnexpectedEOF. Read makes many small reads, and none beyond the end of the archive.
func Read(r io.Reader, visit func(Entry) error) error {
	p := &parser{r: r, visit: visit}
	err := p.expect(magic)
	if err == nil {
		err = p.node("")
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

type parser struct {
	r     io.Reader
	visit func(Entry) error
	buf   [maxPathBytes + 8]byte
}

// node reads one entry, from "(" to ")".
func (p *parser) node(path string) error {
	if err := p.expect("(", "type"); err != nil {
		return err
	}
	kind, err := p.word(maxKeyword)
	if err != nil {
		return err
	}
	switch kind {
	case "regular":
		return p.file(path)
	case "symlink":
		return p.symlink(path)
	case "directory":
		return p.directory(path)
	}
	return fmt.Errorf("reading archive: %q is of an unknown type %q", path, kind)
}

func (p *parser) file(path string) error {
	entry := Entry{Path: path, Mode: 0o444}
	word, err := p.word(maxKeyword)
	if err == nil && word == "executable" {
		entry.Mode = 0o555
		if err = p.expect(""); err == nil {
			word, err = p.word(maxKeyword)
		}
	}
	if err != nil {
		return err
	}
	if word != "contents" {
		return fmt.Errorf("reading archive: %q has %q in the place of its content", path, word)
	}
	if entry.Size, err = p.number(); err != nil {
		return err
	}
	if entry.Size < 0 {
		return fmt.Errorf("reading archive: %q has a size of more than 63 bits", path)
	}
	content := &io.LimitedReader{R: p.r, N: entry.Size}
	entry.Content = content
	if err := p.visit(entry); err != nil {
		return err
	}
	// visit may have left a part unread.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	if content.N > 0 {
		return io.ErrUnexpectedEOF
	}
	if _, err := p.padded(0, -entry.Size&7); err != nil {
		return err
	}
	return p.expect(")")
}

func (p *parser) symlink(path string) error {
	if err := p.expect("target"); err != nil {
		return err
	}
	target, err := p.word(maxPathBytes)
	if err != nil {
		return err
	}
	if target == "" || strings.Contains(target, "\x00") {
		return fmt.Errorf("reading archive: %q links to %q", path, target)
	}
	if err := p.visit(Entry{Path: path, Mode: fs.ModeSymlink | 0o777, Target: target}); err != nil {
		return err
	}
	return p.expect(")")
}

func (p *parser) directory(path string) error {
	if err := p.visit(Entry{Path: path, Mode: fs.ModeDir | 0o555}); err != nil {
		return err
	}
	for last := ""; ; {
		word, err := p.word(maxKeyword)
		if err != nil {
			return err
		}
		switch word {
		case ")":
			return nil
		case "entry":
		default:
			return fmt.Errorf("reading archive: %q has %q in the place of an entry", path, word)
		}
		if err := p.expect("(", "name"); err != nil {
			return err
		}
		name, err := p.word(maxNameBytes)
		if err != nil {
			return err
		}
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("reading archive: %q has an entry named %q", path, name)
		}
		if name <= last {
			return fmt.Errorf("reading archive: in %q, %q follows %q", path, name, last)
		}
		last = name
		child := name
		if path != "" {
			child = path + "/" + name
		}
		if len(child) > maxPathBytes {
			return fmt.Errorf("reading archive: %.40q… is longer than %d bytes", child, maxPathBytes)
		}
		if err := p.expect("node"); err != nil {
			return err
		}
		if err := p.node(child); err != nil {
			return err
		}
		if err := p.expect(")"); err != nil {
			return err
		}
	}
}

// number reads a length.
func (p *parser) number() (int64, error) {
	if _, err := io.ReadFull(p.r, p.buf[:8]); err != nil {
		return 0, err
	}
	return int64(binary.LittleEndian.Uint64(p.buf[:8])), nil
}

// word reads a string.
func (p *parser) word(maxBytes int64) (string, error) {
	n, err := p.number()
	if err != nil {
		return "", err
	}
	if n < 0 || n > maxBytes {
		return "", fmt.Errorf("reading archive: a word of %d bytes, where %d are allowed", uint64(n), maxBytes)
	}
	word, err := p.padded(n, -n&7)
	return string(word), err
}

// padded reads n bytes and the zeros that follow them.
func (p *parser) padded(n, zeros int64) ([]byte, error) {
	if _, err := io.ReadFull(p.r, p.buf[:n+zeros]); err != nil {
		return nil, err
	}
	if !bytes.Equal(p.buf[n:n+zeros], make([]byte, zeros)) {
		return nil, errors.New("reading archive: zeros are missing after a word or a file")
	}
	return p.buf[:n], nil
}

func (p *parser) expect(words ...string) error {
	for _, want := range words {
		got, err := p.word(maxKeyword)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("reading archive: %q in the place of %q", got, want)
		}
	}
	return nil
}
