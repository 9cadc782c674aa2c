package paths

import (
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	// State is where records are, beside upstream's /docker. The number is that of their format.
	State = "/nix/v1/"
	// Repositories is the directory of all repositories.
	Repositories = "/docker/registry/v2/repositories"

	blobs = "/docker/registry/v2/blobs"
)

// Blob is the directory of a blob.
func Blob(dgst digest.Digest) string {
	hex := dgst.Encoded()
	return path.Join(blobs, dgst.Algorithm().String(), hex[:2], hex)
}

// BlobData is the file with the content of a blob.
func BlobData(dgst digest.Digest) string { return path.Join(Blob(dgst), "data") }

// Layers has a directory for each algorithm, in which each blob that is linked into a repository has
// one. The blobs of manifests are not among them.
func Layers(repository string) string { return path.Join(Repositories, repository, "_layers") }

// Layer is the directory of the link of a blob in a repository.
func Layer(repository string, dgst digest.Digest) string {
	return path.Join(Layers(repository), dgst.Algorithm().String(), dgst.Encoded())
}

// Revisions has a directory for each manifest of a repository, tagged or not.
func Revisions(repository string) string {
	return path.Join(Repositories, repository, "_manifests/revisions/sha256")
}

// Revision is the directory of the link of a manifest in a repository.
func Revision(repository string, manifest digest.Digest) string {
	return path.Join(Revisions(repository), manifest.Encoded())
}

// Tags has a directory for each tag of a repository.
func Tags(repository string) string { return path.Join(Repositories, repository, "_manifests/tags") }

// TagCurrent is the link of a tag to its manifest.
func TagCurrent(repository, tag string) string {
	return path.Join(Tags(repository), tag, "current/link")
}

// TagIndex has a directory for each manifest that a tag ever pointed to. Manifests have no other
// algorithm than SHA-256 there.
func TagIndex(repository, tag string) string {
	return path.Join(Tags(repository), tag, "index/sha256")
}

// Link is the file in the directory of a link. It has the digest.
func Link(dir string) string { return path.Join(dir, "link") }

// DigestOf reads a digest of SHA-256 from the last part of a path. It is false for other names.
func DigestOf(name string) (digest.Digest, bool) {
	dgst := digest.NewDigestFromEncoded(digest.SHA256, path.Base(name))
	return dgst, dgst.Validate() == nil
}

// A Kind is what a file is for.
type Kind int

// Kinds of files. Other has no meaning for what a repository refers to.
const (
	Other        Kind = iota
	BlobFile          // the content of a blob
	LayerLink         // by which a blob belongs to a repository
	RevisionLink      // by which a manifest does
	TagEntry          // in the index of a tag
	TagLink           // by which a tag points to a manifest, whose digest is the content alone
	UploadBegin       // of a new upload
	PendingLinks      // a record of layers that will be linked
)

// Parse tells what a file is for, and which digest its path has.
func Parse(name string) (Kind, digest.Digest) {
	if strings.HasPrefix(name, State+"links/") {
		return PendingLinks, ""
	}
	if rest, ok := strings.CutPrefix(name, blobs+"/"); ok {
		parts := strings.Split(rest, "/")
		if len(parts) == 4 && parts[3] == "data" {
			return BlobFile, valid(parts[0], parts[2])
		}
		return Other, ""
	}
	rest, ok := strings.CutPrefix(name, Repositories+"/")
	if !ok {
		return Other, ""
	}
	i := strings.Index(rest, "/_") // no part of a repository's name begins like that
	if i < 0 {
		return Other, ""
	}
	parts := strings.Split(rest[i+1:], "/")
	switch n := len(parts); {
	case parts[0] == "_layers" && n == 4 && parts[3] == "link":
		return LayerLink, valid(parts[1], parts[2])
	case parts[0] == "_uploads" && n == 3 && parts[2] == "startedat":
		return UploadBegin, ""
	case parts[0] != "_manifests" || parts[n-1] != "link":
		return Other, ""
	case n == 5 && parts[1] == "revisions":
		return RevisionLink, valid(parts[2], parts[3])
	case n == 7 && parts[3] == "index":
		return TagEntry, valid(parts[4], parts[5])
	case n == 5 && parts[3] == "current":
		return TagLink, ""
	}
	return Other, ""
}

// valid is empty where there is no digest.
func valid(algorithm, hex string) digest.Digest {
	dgst := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	if dgst.Validate() != nil {
		return ""
	}
	return dgst
}
