package layer

import (
	"archive/tar"
	"bytes"
	"path"
	"strconv"
	"strings"
)

// Fields of a header (POSIX, pax, "ustar Interchange Format"): where they begin and how long they
// are.
const (
	blockSize = 512
	nameSize  = 100
	sizeField = 124
	sizeSize  = 12
	sumField  = 148
	sumSize   = 8
	linkField = 157
	linkSize  = nameSize
)

var zeros [blockSize]byte

// headers writes those of entries without content as archive/tar does, in a fraction of the time:
// it fills in what archive/tar wrote for another entry. A root layer is thousands of symbolic
// links.
type headers struct {
	entries  map[entryKind]*block
	extended *block // the header before a record of a long link
	buf      []byte
}

// entryKind is what entries have in common that differ in names alone.
type entryKind struct {
	typeflag byte
	mode     int64
}

// block is a header without names, and with the sum of its bytes.
type block struct {
	bytes [blockSize]byte
	sum   int
}

func newHeaders() headers { return headers{entries: make(map[entryKind]*block)} }

// encode returns what archive/tar writes for h, whose modification time is fixed, or nothing where
// that is not known here. It may be used until the next call.
func (t *headers) encode(h *tar.Header) ([]byte, error) {
	if h.Typeflag == tar.TypeReg || len(h.Name) > nameSize || !isPlain(h.Name) || !isPlain(h.Linkname) {
		return nil, nil
	}
	kind := entryKind{h.Typeflag, h.Mode}
	entry := t.entries[kind]
	if entry == nil {
		var err error
		if entry, err = t.learn(kind, h); err != nil {
			return nil, err
		}
	}
	t.buf = t.buf[:0]
	link := h.Linkname
	if len(link) > linkSize {
		size := recordSize(len(" linkpath=\n") + len(link))
		if size > blockSize || path.Clean(h.Name) != h.Name {
			return nil, nil
		}
		t.extend(h.Name, size)
		t.buf = strconv.AppendInt(t.buf, int64(size), 10)
		t.buf = append(append(append(t.buf, " linkpath="...), link...), '\n')
		t.buf = append(t.buf, zeros[:2*blockSize-len(t.buf)]...)
		link = link[:linkSize]
		if link[linkSize-1] == '/' { // which archive/tar cuts off here
			if link = link[:linkSize-1]; link[linkSize-2] == '/' {
				return nil, nil
			}
		}
	}
	header := t.add(entry)
	sum := entry.sum + fill(header[:nameSize], h.Name) + fill(header[linkField:linkField+linkSize], link)
	putSum(header, sum)
	return t.buf, nil
}

// extend adds the header of a record of some size that belongs to an entry of a clean name.
func (t *headers) extend(name string, size int) {
	header := t.add(t.extended)
	dir, file := path.Split(name)
	var of [2 * nameSize]byte
	n := append(append(append(of[:0], dir...), "PaxHeaders.0/"...), file...)
	n = n[:min(len(n), nameSize)]
	for len(n) > 0 && n[len(n)-1] == '/' {
		n = n[:len(n)-1]
	}
	sum := t.extended.sum + fill(header[:nameSize], string(n))
	octal(header[sizeField:sizeField+sizeSize-1], size)
	for _, digit := range header[sizeField : sizeField+sizeSize-1] {
		sum += int(digit)
	}
	putSum(header, sum)
}

// add appends a header to what encode returns.
func (t *headers) add(b *block) []byte {
	begin := len(t.buf)
	t.buf = append(t.buf, b.bytes[:]...)
	return t.buf[begin:]
}

// learn has archive/tar write an entry of a kind, and one with records.
func (t *headers) learn(kind entryKind, h *tar.Header) (entry *block, err error) {
	for _, link := range []string{strings.Repeat("x", linkSize+1), "x"} {
		var written bytes.Buffer
		like := tar.Header{Typeflag: kind.typeflag, Mode: kind.mode, Name: "x", Linkname: link, ModTime: h.ModTime}
		if err := tar.NewWriter(&written).WriteHeader(&like); err != nil {
			return nil, err
		}
		entry = &block{bytes: [blockSize]byte(written.Bytes())}
		clear(entry.bytes[:nameSize])
		clear(entry.bytes[linkField : linkField+linkSize])
		copy(entry.bytes[sumField:sumField+sumSize], "        ") // as which its own field counts
		if written.Len() > blockSize {
			clear(entry.bytes[sizeField : sizeField+sizeSize])
			t.extended = entry
		}
		for _, b := range entry.bytes {
			entry.sum += int(b)
		}
	}
	t.entries[kind] = entry
	return entry, nil
}

// isPlain tells whether a name is ASCII, without NUL.
func isPlain(name string) bool {
	for i := range len(name) {
		if name[i] == 0 || name[i] >= 0x80 {
			return false
		}
	}
	return true
}

// recordSize is how long a record is that counts its own size, in front of so many bytes.
func recordSize(rest int) int {
	for size := rest + 1; ; size++ {
		if len(strconv.Itoa(size))+rest == size {
			return size
		}
	}
}

// fill puts a value at the beginning of a field of zeros, and returns the sum of its bytes.
func fill(field []byte, value string) (sum int) {
	for _, b := range field[:copy(field, value)] {
		sum += int(b)
	}
	return sum
}

// octal fills a field with digits.
func octal(field []byte, n int) {
	for i := len(field) - 1; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
}

// putSum writes a header's checksum.
func putSum(header []byte, sum int) {
	field := header[sumField : sumField+sumSize]
	octal(field[:sumSize-2], sum)
	field[sumSize-2] = 0
}
