package source

import (
	"context"
	"errors"
	"time"
)

// Latest is the tag of the configured channel, branch or path.
const Latest = "latest"

// ErrUnknownTag is that a tag stands for nothing that the source has.
var ErrUnknownTag = errors.New("no such revision of the package set")

// Pinned is a package set at one revision.
type Pinned struct {
	// Name says which package set it is, to people: neither credentials nor paths of the host.
	Name string
	// Revision is immutable and is a valid tag. It tells apart all that results may differ by: the
	// set and its Variant.
	Revision string
	// Commit is the git commit that the files are of, empty if they are of none.
	Commit string
	// Variant is what the results depend on beside the set.
	Variant Variant
	// NixPath are the immutable copies of what the set can look up between angle brackets, by name.
	NixPath map[string]string
	// Origin tells, among the sets of this machine, what the operator has configured that had this
	// revision; empty if a client chose it. It is not for people.
	Origin string
	// Absent are paths of submodules that the source was not asked to fetch.
	Absent []string
	// Pointers are paths of files whose content is in git LFS, which is not fetched: they hold what
	// git has, the name of the content.
	Pointers []string
	// Date is when the revision was made, by its own account; zero where it has none.
	Date time.Time
	// Stale is why the source could not be asked, when the revision is the one that it last had;
	// nil otherwise.
	Stale error
	// Path is the immutable copy: a directory with a default.nix or flake.nix, or a .nix file. It
	// is there for sure while somebody holds it (Source.Hold).
	Path string
}

// A Source is where package sets come from. It is safe for concurrent use.
type Source interface {
	// Pin tells what a tag stands for now. The error is ErrUnknownTag if the source has nothing of
	// that name, an *ArchiveError if what it has is of no use; anything else means that the source
	// can't be read at the moment.
	Pin(ctx context.Context, tag string) (Pinned, error)
	// Hold keeps the files at pinned.Path until release is called, whatever else is pinned
	// meanwhile and by whichever process. It makes them anew if they are gone since Pin. An error
	// means that they can't be had any more, or not at the moment.
	Hold(ctx context.Context, pinned Pinned) (release func(), err error)
	// Current returns the revision of Pin where that can be told at once: without a walk, without
	// asking a remote, and not behind others who do. The files of the revision need not be there.
	Current(tag string) (revision string, ok bool)
}
