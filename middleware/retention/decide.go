package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
)

// Limits say which built images stay. The zero value of each is no limit.
type Limits struct {
	// Unused is how long an image stays that nobody pulls.
	Unused time.Duration
	// Keep is how many tags of revisions each name has: those built last. Tags that move do not count.
	Keep int
	// MaxBytes is how much the blobs may take that only built images have.
	MaxBytes int64
}

// Any tells whether there is a limit.
func (l Limits) Any() bool { return l != Limits{} }

// settled is how old an image must be to go: who waited for it is pulling its layers now.
const settled = time.Hour

// A Blob is part of images.
type Blob struct {
	Size   int64
	Pushed bool // something pushed has it, too
}

// An Image is a tag of a built image.
type Image struct {
	Repository, Tag string
	Digest          digest.Digest
	Revision        string
	Built           time.Time
	// LastPull is the last pull that is recorded; zero: none is. Pulled is what counts as that.
	LastPull, Pulled time.Time
	// Held tells that the operator wants it to be there.
	Held bool
	// Needed tells that something pushed refers to it: one tag of the Digest stays.
	Needed bool
	// Blobs are those of the image, the same for all its tags; nil: nobody asks for bytes.
	Blobs []*Blob
}

// moves tells whether the tag is one that does not stand for a revision alone.
func (i Image) moves() bool { return i.Tag != i.Revision }

// A Removal is a tag that goes, and why.
type Removal struct {
	Image
	Reason string
	// Bytes are those of the blobs that nothing else has, once all Removals before this one are done.
	Bytes int64
}

// An imageID is an image of a repository, by whichever tag.
type imageID struct {
	repository string
	digest     digest.Digest
}

// Decide tells which of the built images of a registry go, in this order. Without MaxBytes it may be
// called for some repositories at a time.
//
//   - Unused and Keep are about tags. The tag of a revision stays as long as another tag of the same
//     repository stays that is on this revision.
//   - MaxBytes is about images: the least recently pulled go, with all their tags.
//   - What is Held, or was built within the last hour, stays. Of a Needed image a tag stays.
func Decide(images []Image, limits Limits, now time.Time) []Removal {
	d := decision{images: images, limits: limits, now: now, reasons: make([]string, len(images))}
	d.unused(true)
	d.unused(false)
	d.beyond()
	d.keepNeeded()
	d.shrink()
	return d.removals()
}

type decision struct {
	images  []Image
	limits  Limits
	now     time.Time
	reasons []string // why the image of this index goes; empty: it stays
	order   []int    // of those that go
}

func (d *decision) remove(i int, format string, args ...any) {
	d.reasons[i] = fmt.Sprintf(format, args...)
	d.order = append(d.order, i)
}

func (d *decision) stays(i int) bool { return d.reasons[i] == "" }

// mayGo tells whether an image may go at all.
func (d *decision) mayGo(i int) bool {
	return d.stays(i) && !d.images[i].Held && d.now.Sub(d.images[i].Built) >= settled
}

// A place is a revision in a repository.
type place struct{ repository, revision string }

// current are the revisions that tags are on which move and stay.
func (d *decision) current() map[place]struct{} {
	current := make(map[place]struct{})
	for i, image := range d.images {
		if d.stays(i) && image.moves() {
			current[place{image.Repository, image.Revision}] = struct{}{}
		}
	}
	return current
}

// unused removes what nobody has pulled for too long: first tags that move, and then others. A record
// is of a pull that was up to a day earlier than the last.
func (d *decision) unused(moving bool) {
	if d.limits.Unused == 0 {
		return
	}
	current := d.current()
	for i, image := range d.images {
		_, isCurrent := current[place{image.Repository, image.Tag}]
		if image.moves() != moving || !moving && isCurrent || !d.mayGo(i) {
			continue
		}
		if d.now.Sub(image.Pulled) > d.limits.Unused+recordEvery {
			d.remove(i, "not pulled for %s", days(d.now.Sub(image.Pulled)))
		}
	}
}

func days(d time.Duration) string { return fmt.Sprintf("%d days", int(d.Hours()/24)) }

// beyond removes tags of revisions beyond the newest of each repository.
func (d *decision) beyond() {
	if d.limits.Keep == 0 {
		return
	}
	current := d.current()
	tags := make(map[string][]int)
	for i, image := range d.images {
		if d.stays(i) && !image.moves() {
			tags[image.Repository] = append(tags[image.Repository], i)
		}
	}
	for _, image := range d.images { // in their order
		found := tags[image.Repository]
		delete(tags, image.Repository)
		slices.SortFunc(found, func(a, b int) int {
			return cmp.Or(d.images[b].Built.Compare(d.images[a].Built), cmp.Compare(d.images[a].Tag, d.images[b].Tag))
		})
		for n, i := range found {
			_, isCurrent := current[place{d.images[i].Repository, d.images[i].Tag}]
			if n >= d.limits.Keep && !isCurrent && d.mayGo(i) {
				d.remove(i, "beyond the newest %d of its name", d.limits.Keep)
			}
		}
	}
}

// keepNeeded has a tag of each needed image stay: the one built last.
func (d *decision) keepNeeded() {
	last := make(map[imageID]int)
	stay := make(map[imageID]bool)
	for i, image := range d.images {
		id := imageID{image.Repository, image.Digest}
		if !image.Needed {
			continue
		}
		stay[id] = stay[id] || d.stays(i)
		if newest, ok := last[id]; !ok || image.Built.After(d.images[newest].Built) {
			last[id] = i
		}
	}
	for id, i := range last {
		if !stay[id] {
			d.reasons[i] = ""
			d.order = slices.DeleteFunc(d.order, func(other int) bool { return other == i })
		}
	}
}

// A group is all tags of an image that stay.
type group struct {
	tags   []int
	pulled time.Time // the last of them
	stays  bool
}

// groups are the images that stay, in the order in which they were pulled.
func (d *decision) groups() []*group {
	groups := make(map[imageID]*group)
	var all []*group
	for i, image := range d.images {
		if !d.stays(i) {
			continue
		}
		id := imageID{image.Repository, image.Digest}
		g := groups[id]
		if g == nil {
			g = &group{}
			groups[id] = g
			all = append(all, g)
		}
		g.tags = append(g.tags, i)
		g.stays = g.stays || image.Needed || !d.mayGo(i)
		if image.Pulled.After(g.pulled) {
			g.pulled = image.Pulled
		}
	}
	slices.SortStableFunc(all, func(a, b *group) int { return a.pulled.Compare(b.pulled) })
	return all
}

// shrink removes the images that were pulled least recently until the others take no more than they
// may.
func (d *decision) shrink() {
	if d.limits.MaxBytes == 0 {
		return
	}
	groups := d.groups()
	uses := make(map[*Blob]int)
	var total int64
	for _, g := range groups {
		for _, blob := range d.images[g.tags[0]].Blobs {
			if uses[blob]++; uses[blob] == 1 && !blob.Pushed {
				total += blob.Size
			}
		}
	}
	for _, g := range groups {
		if total <= d.limits.MaxBytes {
			return
		}
		if g.stays {
			continue
		}
		for _, blob := range d.images[g.tags[0]].Blobs {
			if uses[blob]--; uses[blob] == 0 && !blob.Pushed {
				total -= blob.Size
			}
		}
		for _, i := range g.tags {
			d.remove(i, "pulled least recently, of more than %s", units.HumanSize(float64(d.limits.MaxBytes)))
		}
	}
}

// removals tells what each tag that goes frees.
func (d *decision) removals() []Removal {
	tags := make(map[imageID]int)
	uses := make(map[*Blob]int)
	for _, image := range d.images {
		id := imageID{image.Repository, image.Digest}
		if tags[id]++; tags[id] == 1 {
			for _, blob := range image.Blobs {
				uses[blob]++
			}
		}
	}
	removals := make([]Removal, 0, len(d.order))
	for _, i := range d.order {
		image := d.images[i]
		removal := Removal{Image: image, Reason: d.reasons[i]}
		id := imageID{image.Repository, image.Digest}
		if tags[id]--; tags[id] == 0 && !image.Needed {
			for _, blob := range image.Blobs {
				if uses[blob]--; uses[blob] == 0 && !blob.Pushed {
					removal.Bytes += blob.Size
				}
			}
		}
		removals = append(removals, removal)
	}
	return removals
}
