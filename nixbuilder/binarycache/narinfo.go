package binarycache

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	// maxNarinfoBytes is more than the text of a path with 10,000 references.
	maxNarinfoBytes = 1 << 20
	// maxArchiveBytes keeps sums of sizes from overflowing.
	maxArchiveBytes = 1 << 50
)

// errUntrusted means that no trusted key has signed a narinfo.
var errUntrusted = errors.New("no trusted key has signed it")

// A narInfo is what a cache says about a path.
type narInfo struct {
	store.PathInfo
	narHash     []byte // SHA-256
	file        string // where the archive is, relative to the cache
	compression string
	fileHash    []byte // SHA-256 of the archive as it is in the cache; nil: not said
	fileBytes   int64  // zero: not said
}

// narinfoKeys are the keys of a narinfo that are read. Caches may write others.
var narinfoKeys = []string{
	"StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Sig",
}

// parseNarinfo reads what a cache says about a path. If none of the keys has signed it, the error
// is errUntrusted. Where the archive is and how it is compressed are not signed: the place must be
// in the cache, and the compression a known one.
func parseNarinfo(text []byte, want store.Path, keys []signature.PublicKey) (*narInfo, error) {
	var known bytes.Buffer
	for line := range bytes.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimRight(string(line), "\r\n"), ":")
		value = strings.TrimPrefix(value, " ")
		if !ok || value == "" || !slices.Contains(narinfoKeys, key) {
			continue
		}
		if _, err := signature.ParseSignature(value); key == "Sig" && err != nil {
			continue // of a future kind; one of a known kind suffices
		}
		fmt.Fprintf(&known, "%s: %s\n", key, value)
	}
	info, err := narinfo.Parse(&known)
	if err != nil {
		return nil, fmt.Errorf("reading narinfo: %w", err)
	}
	if info.StorePath != string(want) {
		return nil, fmt.Errorf("reading narinfo: it is about %.300q", info.StorePath)
	}
	if info.NarHash == nil || info.NarHash.Algo() != nixhash.SHA256 {
		return nil, errors.New("reading narinfo: it has no SHA-256 hash of the archive")
	}
	if info.NarSize == 0 || info.NarSize > maxArchiveBytes || info.FileSize > maxArchiveBytes {
		return nil, fmt.Errorf("reading narinfo: it has the sizes %d and %d", info.NarSize, info.FileSize)
	}
	s := &narInfo{
		PathInfo: store.PathInfo{Path: want, NarSize: int64(info.NarSize)},
		narHash:  info.NarHash.Digest(), file: info.URL, compression: info.Compression, fileBytes: int64(info.FileSize),
	}
	if info.FileHash != nil && info.FileHash.Algo() == nixhash.SHA256 {
		s.fileHash = info.FileHash.Digest()
	}
	slices.Sort(info.References) // as they were signed
	info.References = slices.Compact(info.References)
	for _, reference := range info.References {
		p, err := store.ParsePath(store.Dir + "/" + reference)
		if err != nil {
			return nil, fmt.Errorf("reading narinfo: reference: %w", err)
		}
		s.References = append(s.References, p)
	}
	if err := checkName(s.file); err != nil {
		return nil, fmt.Errorf("reading narinfo: %w", err)
	}
	if !slices.Contains(compressions, s.compression) {
		known := strings.Join(compressions, ", ")
		return nil, fmt.Errorf("reading narinfo: the compression is %q, none of %s", s.compression, known)
	}
	if !signed(info, keys) {
		return nil, errUntrusted
	}
	return s, nil
}

// Limits for the names of keys, in bytes, and for how many are returned of one path.
const (
	maxKeyName = 100
	maxSigners = 10
)

// signers returns the names of the keys in a narinfo's signatures, sorted.
func signers(text []byte) []string {
	var names []string
	for line := range bytes.Lines(text) {
		value, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "Sig: ")
		if sig, err := signature.ParseSignature(value); ok && err == nil && len(sig.Name) <= maxKeyName &&
			len(names) < maxSigners {
			names = append(names, sig.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// signed reports whether one of the signatures is by one of the keys. A path may have several
// signatures by keys of the same name.
func signed(info *narinfo.NarInfo, keys []signature.PublicKey) bool {
	fingerprint := info.Fingerprint()
	for _, sig := range info.Signatures {
		for _, key := range keys {
			if key.Verify(fingerprint, sig) {
				return true
			}
		}
	}
	return false
}

// defaultPriority is the priority of a cache that says none.
const defaultPriority = 50

// parseCacheInfo reads nix-cache-info. It fails if the cache is for another store. Caches of lower
// priorities are asked first.
func parseCacheInfo(text []byte) (priority int, err error) {
	priority = defaultPriority
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "StoreDir":
			if value != store.Dir {
				return 0, fmt.Errorf(
					"reading nix-cache-info: the cache is for the store %.100q, not %s", value, store.Dir,
				)
			}
		case "Priority":
			if priority, err = strconv.Atoi(value); err != nil || priority < 0 {
				return 0, fmt.Errorf("reading nix-cache-info: the priority is %.100q", value)
			}
		}
	}
	return priority, nil
}
