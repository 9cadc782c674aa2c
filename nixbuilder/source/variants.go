package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A Variant lists what the results of a package set depend on beside the set itself: the operator's
// settings, and the revisions of other sets that it can look up. Each is NAME=VALUE; they are
// sorted. Mostly there are none.
type Variant []string

// ID stands for a variant in tags: 12 hexadecimal digits, or none for an empty variant.
func (v Variant) ID() string {
	if len(v) == 0 {
		return ""
	}
	set := sha256.New()
	for _, part := range v {
		fmt.Fprintf(set, "%d:%s\n", len(part), part)
	}
	return fmt.Sprintf("%x", set.Sum(nil))[:12]
}

// nixPathPart is the prefix of NAME for the revisions of other sets.
const nixPathPart = "nixpath."

// nixPath returns the revision of the other set of that name, empty if the variant has none.
func (v Variant) nixPath(name string) string {
	for _, part := range v {
		if revision, found := strings.CutPrefix(part, nixPathPart+name+"="); found {
			return revision
		}
	}
	return ""
}

// variantTag matches the revisions of Variants that have an ID.
var variantTag = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})-([0-9a-f]{12})$`)

// attachedTag matches tags by which clients look for what was pushed for an image of some digest,
// such as signatures and attestations: cosign's tags, and those that replace the API of referrers.
// No revision has such a name.
var attachedTag = regexp.MustCompile(`^sha(256|384|512)-[0-9a-f]{64,128}(\.[A-Za-z0-9._-]*)?$`)

// IsAttached tells whether a tag is of such a name.
func IsAttached(tag string) bool { return attachedTag.MatchString(tag) }

// Recall returns the variant that once had an ID, false if that is not known.
type Recall func(ctx context.Context, id string) (Variant, bool, error)

// Variants is a package set with all that its results depend on. Its revision is the set's,
// followed by a dash and the ID of the variant if that is not empty.
//
// A tag with an ID stands for the set at that revision with the variant of that ID. A tag without
// one may also be a revision of the set; the variant is then today's.
type Variants struct {
	set      Source
	settings Variant
	nixPath  map[string]Source // by the name between angle brackets
	names    []string          // of nixPath, sorted
	recall   Recall
}

// NewVariants makes a set's results depend on settings, and on the Latest of each set in nixPath,
// which the set can look up as <NAME>.
func NewVariants(set Source, settings Variant, nixPath map[string]Source, recall Recall) *Variants {
	v := &Variants{set: set, settings: settings, nixPath: nixPath, recall: recall}
	for name := range nixPath {
		v.names = append(v.names, name)
	}
	slices.Sort(v.names)
	return v
}

// qualified returns the set's revision with the ID of the variant, and that variant.
func (v *Variants) qualified(revision string, revisions []string) (string, Variant) {
	variant := slices.Clone(v.settings)
	for i, name := range v.names {
		variant = append(variant, nixPathPart+name+"="+revisions[i])
	}
	if slices.Sort(variant); len(variant) > 0 {
		revision += "-" + variant.ID()
	}
	return revision, variant
}

// Current knows tags with an ID. For others, it knows what all sources know.
func (v *Variants) Current(tag string) (revision string, ok bool) {
	if variantTag.MatchString(tag) {
		return tag, true
	}
	base, ok := v.set.Current(tag)
	revisions := make([]string, len(v.names))
	for i, name := range v.names {
		var known bool
		revisions[i], known = v.nixPath[name].Current(Latest)
		ok = ok && known
	}
	revision, _ = v.qualified(base, revisions)
	return revision, ok
}

// Pin pins the set and all that it can look up.
func (v *Variants) Pin(ctx context.Context, tag string) (Pinned, error) {
	if IsAttached(tag) {
		return Pinned{}, ErrUnknownTag // whatever is down
	}
	base, tags := tag, make([]string, len(v.names))
	for i := range tags {
		tags[i] = Latest
	}
	parts := variantTag.FindStringSubmatch(tag)
	if parts != nil {
		var err error
		if base = parts[1]; len(v.names) > 0 {
			tags, err = v.recalled(ctx, parts[2])
		}
		if err != nil {
			return Pinned{}, err
		}
		// What else the variant had is told by its ID.
		if revision, _ := v.qualified(base, tags); revision != tag {
			return Pinned{}, ErrUnknownTag
		}
	}
	pinned, err := v.set.Pin(ctx, base)
	if err != nil {
		return Pinned{}, err
	}
	revisions := make([]string, len(v.names))
	for i, name := range v.names {
		found, err := v.nixPath[name].Pin(ctx, tags[i])
		if errors.Is(err, ErrUnknownTag) && tags[i] == Latest { // the client's tag is none of its business
			err = errors.New("it has no such channel, branch or tag")
		}
		if err != nil {
			return Pinned{}, fmt.Errorf("looking up packages.nixpath.%s: %w", name, err)
		}
		if pinned.NixPath == nil {
			pinned.NixPath = make(map[string]string, len(v.names))
		}
		pinned.NixPath[name], revisions[i] = found.Path, found.Revision
		if found.Origin == "" {
			pinned.Origin = "" // it is no longer what the operator has configured
		}
		if pinned.Stale == nil && found.Stale != nil {
			pinned.Stale = fmt.Errorf("looking up packages.nixpath.%s: %w", name, found.Stale)
		}
	}
	pinned.Revision, pinned.Variant = v.qualified(pinned.Revision, revisions)
	return pinned, nil
}

// recalled returns the revisions that a variant had, in the order of names. It fails with
// ErrUnknownTag if there is no such variant.
func (v *Variants) recalled(ctx context.Context, id string) ([]string, error) {
	variant, ok, err := v.recall(ctx, id)
	if err != nil {
		return nil, err
	}
	revisions := make([]string, len(v.names))
	for i, name := range v.names {
		revisions[i] = variant.nixPath(name)
		ok = ok && revisions[i] != ""
	}
	if !ok {
		return nil, ErrUnknownTag
	}
	return revisions, nil
}

// Lease holds the set and all that it can look up.
func (v *Variants) Lease(ctx context.Context, pinned Pinned) (release func(), err error) {
	var releases []func()
	release = func() {
		for _, one := range releases {
			one()
		}
	}
	lease := func(set Source, one Pinned) error {
		held, err := set.Lease(ctx, one)
		if err == nil {
			releases = append(releases, held)
		}
		return err
	}
	set := pinned
	set.Revision, _, _ = strings.Cut(pinned.Revision, "-")
	if err := lease(v.set, set); err != nil {
		return nil, err
	}
	for _, name := range v.names {
		revision := pinned.Variant.nixPath(name)
		if err := lease(v.nixPath[name], Pinned{Revision: revision, Path: pinned.NixPath[name]}); err != nil {
			release()
			return nil, fmt.Errorf("holding packages.nixpath.%s: %w", name, err)
		}
	}
	return release, nil
}
