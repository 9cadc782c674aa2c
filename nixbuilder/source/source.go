package source

import (
	"context"
	"errors"
	"time"
)

// Latest is the tag of the configured channel, branch or path.
const Latest = "latest"

// defaultKeep is how many revisions a source stores, the ones that were asked for last, unless its
// options say otherwise.
const defaultKeep = 4

// ErrUnknownTag means that a tag stands for nothing that the source has.
var ErrUnknownTag = errors.New("no such revision of the package set")

// Pinned is a package set at one revision.
type Pinned struct {
	// Name tells people which package set it is. It has no credentials and no path of the host.
	Name string
	// Revision is immutable and a valid tag. Two pinned sets whose results may differ have
	// different revisions: it covers the set and its Variant.
	Revision string
	// Commit is the files' git commit; empty if they have none.
	Commit string
	// Variant lists what the results depend on beside the set.
	Variant Variant
	// NixPath maps each name that the set can look up between angle brackets to an immutable copy.
	NixPath map[string]string
	// Origin identifies the operator's setting that had this revision, among all sets of this
	// machine; empty if a client chose the revision. It is not for people.
	Origin string
	// Absent lists the paths of submodules that the source was not asked to fetch.
	Absent []string
	// Pointers lists the paths of files whose content is in git LFS. That content is not fetched:
	// the files hold what git has, the content's name.
	Pointers []string
	// Date is the revision's own date; zero if it has none.
	Date time.Time
	// Stale says why the source could not be asked, if the revision is the one that it last had;
	// nil otherwise.
	Stale error
	// Path is the immutable copy: a directory with a default.nix or flake.nix, or a .nix file. It
	// is sure to be there only while somebody holds it (Source.Lease).
	Path string
}

// A Source is where package sets come from. It is safe for concurrent use.
type Source interface {
	// Pin tells what a tag stands for now. It fails with ErrUnknownTag if the source has nothing of
	// that name, and with an *ArchiveError if the source has only an archive of no use. Any other
	// error means that the source can't be read at the moment.
	Pin(ctx context.Context, tag string) (Pinned, error)
	// Lease keeps the files at pinned.Path until release is called, whatever this or another process
	// pins meanwhile. If the files have gone since Pin, it makes them anew. An error means that
	// they can't be had any more, or not at the moment.
	Lease(ctx context.Context, pinned Pinned) (release func(), err error)
	// Offers lists tags that clients may choose beside Latest and the revisions that there are, as
	// far as they are known: sorted, 1000 at most. It takes seconds at most if the remote keeps
	// silent, and then lists fewer.
	Offers(ctx context.Context) []string
	// Doubt has the next Pin and Offers ask the remote, if there is one, however lately it was
	// asked: somebody knows of a change.
	Doubt()
	// Current returns the revision that Pin would, if that can be told at once: without a walk,
	// without asking a remote, and without waiting for others who do. The files of the revision
	// need not be there.
	Current(tag string) (revision string, ok bool)
}
