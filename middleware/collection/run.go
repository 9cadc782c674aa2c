package collection

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// Where records of runs are in the storage.
const (
	runsDir  = paths.State + "collection/runs"
	listsDir = paths.State + "collection/lists"
	// sparedDir has a directory for each run, and in it a file for each digest.
	sparedDir = paths.State + "collection/spared"
)

// A phase is how far a run is.
type phase string

const (
	// condemned: what touches a candidate spares it.
	condemned phase = "condemned"
	// sweeping: nothing may be written. What is not spared is deleted.
	sweeping phase = "sweeping"
	// ended: the run is over.
	ended phase = "ended"
)

// A runRecord is what the storage has of a run. A run that dies leaves it as it was.
type runRecord struct {
	Phase phase `json:"phase"`
	// Seconds is for how long the phase lasts at most. The run gives up before, and whoever has seen
	// the phase for that long need not wait for it any more.
	Seconds int `json:"seconds,omitempty"`
	// Swept tells of a run that has ended whether it may have deleted something.
	Swept bool `json:"swept,omitempty"`
	// Rest tells that it has not deleted all that it could.
	Rest bool `json:"rest,omitempty"`
	// At is when the run began, by its own clock. It serves for what may be hours off.
	At time.Time `json:"at"`
}

func (r runRecord) lasts() time.Duration { return time.Duration(r.Seconds) * time.Second }

// A list has the candidates of a run, by repository.
type list map[string]candidates

// Candidates are those of one repository.
type candidates struct {
	Manifests []digest.Digest `json:"manifests,omitempty"`
	// Layers are blobs that the manifests refer to, configs too.
	Layers []digest.Digest `json:"layers,omitempty"`
}

// A key is a digest of SHA-256. Nothing else is condemned.
type key [32]byte

// A set has digests in a third of the memory that strings take.
type set map[key]struct{}

func keyOf(dgst digest.Digest) (k key, ok bool) {
	if dgst.Validate() != nil || dgst.Algorithm() != digest.SHA256 {
		return k, false
	}
	_, err := hex.Decode(k[:], []byte(dgst.Encoded()))
	return k, err == nil
}

func (s set) add(dgst digest.Digest) {
	if k, ok := keyOf(dgst); ok {
		s[k] = struct{}{}
	}
}

func (s set) has(dgst digest.Digest) bool {
	if len(s) == 0 {
		return false
	}
	k, ok := keyOf(dgst)
	_, has := s[k]
	return ok && has
}

func (k key) digest() digest.Digest { return digest.NewDigestFromBytes(digest.SHA256, k[:]) }

// digests are sorted.
func (s set) digests() []digest.Digest {
	all := make([]digest.Digest, 0, len(s))
	for k := range s {
		all = append(all, k.digest())
	}
	slices.Sort(all)
	return all
}

func (l list) digests() set {
	all := make(set)
	for _, c := range l {
		for _, dgst := range slices.Concat(c.Manifests, c.Layers) {
			all.add(dgst)
		}
	}
	return all
}

// newName makes the name of a run that is later than all others. Two that begin at a time have
// different ones.
func newName(others []string) string {
	last := 0
	for _, other := range others {
		last = max(last, numberOf(other))
	}
	return fmt.Sprintf("%010d-%s", last+1, strings.ToLower(rand.Text())[:12])
}

// numberOf is 0 for what is no name of a run.
func numberOf(name string) int {
	number, _, _ := strings.Cut(name, "-")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 {
		return 0
	}
	return n
}

// runsOf lists the names of runs, the earliest first.
func runsOf(ctx context.Context, storage driver.StorageDriver) ([]string, error) {
	names, err := listed(ctx, storage, runsDir)
	names = slices.DeleteFunc(names, func(name string) bool { return numberOf(name) == 0 })
	slices.Sort(names)
	return names, err
}

// listed has the last parts of the paths below a directory, of which there need not be one.
func listed(ctx context.Context, storage driver.StorageDriver, dir string) ([]string, error) {
	names, err := storage.List(ctx, dir)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	all := make([]string, 0, len(names))
	for _, name := range names {
		if path.Ext(name) != ".tmp" { // the filesystem driver's unfinished writes
			all = append(all, path.Base(name))
		}
	}
	return all, nil
}

// read is false if there is no such file.
func read(ctx context.Context, storage driver.StorageDriver, file string, into any) (bool, error) {
	content, err := storage.GetContent(ctx, file)
	if isGone(err) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(content, into)
	}
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", file, err)
	}
	return true, nil
}

func write(ctx context.Context, storage driver.StorageDriver, file string, value any) error {
	content, err := json.Marshal(value)
	if err == nil {
		err = storage.PutContent(ctx, file, content)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// remove deletes a file or directory, of which there need not be one.
func remove(ctx context.Context, storage driver.StorageDriver, name string) error {
	if err := storage.Delete(ctx, name); err != nil && !isGone(err) {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

func isGone(err error) bool { return errors.As(err, new(driver.PathNotFoundError)) }

// sparedFile is there if somebody has touched a candidate of a run.
func sparedFile(run string, dgst digest.Digest) string {
	return path.Join(sparedDir, run, dgst.Encoded())
}
