package imagestore

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

const (
	// vouchedBytes bounds what is known to be built, and vouchedKept so many digests of one
	// repository: more than that are found out again.
	vouchedBytes = 8 << 20
	vouchedKept  = 15_000
	// digestBytes is the memory that one digest takes, or a tag.
	digestBytes = 140
	// walksAtOnce is how many repositories are looked through at a time.
	walksAtOnce = 4
	// walkMemory is how long a tag that was looked at is not looked at again.
	walkMemory = time.Minute
)

// vouched is what Nix is known to have built, by repository: manifests, and the blobs and manifests
// that these refer to. It is safe for concurrent use.
type vouched struct {
	walks  limit.Keyed // one for each repository at a time
	walker limit.Slots

	mu    sync.Mutex
	known *weighted.Cache[string, *vouchedParts]
}

// vouchedParts are those of one repository.
type vouchedParts struct {
	digests map[digest.Digest]bool // whether what it refers to is known, too
	// Walked are the tags of which all parts are known, listed those that were only listed.
	walked, listed lookedAt
}

// lookedAt are the tags that were looked at since a time, and whether Nix has built their images.
type lookedAt struct {
	since time.Time
	tags  map[string]bool
}

func walkedOf(p *vouchedParts) *lookedAt { return &p.walked }
func listedOf(p *vouchedParts) *lookedAt { return &p.listed }

func newVouched() *vouched {
	return &vouched{
		walker: limit.NewSlots(walksAtOnce),
		known:  weighted.New[string, *vouchedParts](vouchedBytes),
	}
}

func (v *vouched) has(repository string, dgst digest.Digest) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	parts, ok := v.known.Get(repository)
	if !ok {
		return false
	}
	_, ok = parts.digests[dgst]
	return ok
}

// add is called for what Nix has built. Parts are what it refers to, nil: nobody has looked yet.
func (v *vouched) add(repository string, dgst digest.Digest, parts []v1.Descriptor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	of, ok := v.known.Get(repository)
	if whole, known := of.whole(dgst); known && (whole || parts == nil) {
		return
	}
	if !ok || len(of.digests)+len(parts) > vouchedKept {
		of = &vouchedParts{digests: make(map[digest.Digest]bool)}
	}
	of.digests[dgst] = parts != nil
	for _, part := range parts {
		if _, known := of.digests[part.Digest]; !known {
			of.digests[part.Digest] = false
		}
	}
	v.keep(repository, of)
}

// whole tells whether what a digest refers to is known, and whether the digest itself is.
func (p *vouchedParts) whole(dgst digest.Digest) (whole, known bool) {
	if p == nil {
		return false, false
	}
	whole, known = p.digests[dgst]
	return whole, known
}

// isWhole tells whether a manifest is known with all that it refers to.
func (v *vouched) isWhole(repository string, manifest digest.Digest) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	of, _ := v.known.Get(repository)
	whole, _ := of.whole(manifest)
	return whole
}

// keep is called with mu held.
func (v *vouched) keep(repository string, of *vouchedParts) {
	v.known.Add(repository, of, (len(of.digests)+len(of.walked.tags)+len(of.listed.tags))*digestBytes)
}

// begin begins to look at the tags of a repository. Known are those that were looked at less than
// walkMemory ago.
func (v *vouched) begin(
	repository string, which func(*vouchedParts) *lookedAt, now time.Time,
) (of *vouchedParts, known map[string]bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	of, ok := v.known.Get(repository)
	if !ok {
		of = &vouchedParts{digests: make(map[digest.Digest]bool)}
		v.keep(repository, of)
	}
	last := which(of)
	if age := now.Sub(last.since); age < 0 || age > walkMemory {
		*last = lookedAt{since: now}
	}
	return of, last.tags
}

// end remembers all tags that were looked at, unless some of what was found was forgotten meanwhile.
func (v *vouched) end(
	repository string, which func(*vouchedParts) *lookedAt, of *vouchedParts, tags map[string]bool,
) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now, ok := v.known.Get(repository); !ok || now != of {
		return
	}
	which(of).tags = tags
	v.keep(repository, of)
}
