package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/sync/singleflight"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
)

// These are the defaults of ChannelOptions.
const (
	DefaultChannels = "https://channels.nixos.org"
	DefaultArchives = "https://github.com/NixOS/nixpkgs/archive"
)

const (
	// fetchTime is how long a remote may take for a package set.
	fetchTime = 15 * time.Minute
	// archiveBytes is how large the files of a commit may be, together.
	archiveBytes = 4 << 30
	// fetchesAtOnce is how many commits are fetched at a time. Each takes half a gigabyte until it
	// is known what it shares with others.
	fetchesAtOnce = 2
	// Archives that can't be unpacked are remembered, so as not to be fetched again: so many, for
	// so long.
	unusableKept   = 1000
	unusableMemory = time.Minute
)

// ChannelOptions say where a channel is. Name is needed.
type ChannelOptions struct {
	// Name is a channel, such as nixos-26.05, or a commit of nixpkgs, as 40 hexadecimal digits.
	Name string
	// Channels has a file NAME/git-revision for each channel; empty: DefaultChannels.
	Channels string
	// Archives has a file COMMIT.tar.gz for each commit, whose files are below one directory;
	// empty: DefaultArchives.
	Archives string
	// Tags are globs of the names of channels that clients may choose beside Name; none: no others.
	// Memory remembers the commits of these channels; nil: they are forgotten.
	Tags   Tags
	Memory Memory
	// Dir is where trees are kept. Keep is how many stay; zero: 4. MaxBytes is how much room one
	// may take; zero: 4 GiB, which is also the maximum.
	Dir      string
	Keep     int
	MaxBytes int64
	// Refresh is how long a channel is believed to stand where it stood.
	Refresh time.Duration
}

// Channel is nixpkgs at the commit of a channel of Nix or NixOS. Beside Latest, a tag may be
// another channel or a commit, if clients may choose it.
type Channel struct {
	options  ChannelOptions
	client   *http.Client
	patience patience
	archives archiveLimits
	lookups  *lookups
	kept     *revisions
	grown    func()

	fetching singleflight.Group            // by commit
	slots    limit.Slots                   // for fetches
	unusable *expirable.LRU[string, error] // by commit, of archives that could not be unpacked lately
}

var (
	commitTag  = regexp.MustCompile(`^[0-9a-f]{40}$`)
	channelTag = regexp.MustCompile(`^(nixos|nixpkgs|release)-[0-9a-z][0-9a-z.-]{0,60}$`)
)

// Check reports options that are impossible.
func (o ChannelOptions) Check() error {
	var faults []error
	if !channelTag.MatchString(o.Name) && !commitTag.MatchString(o.Name) {
		faults = append(faults, fmt.Errorf("%q is neither a channel, such as nixos-26.05, nor a full commit", o.Name))
	}
	for _, base := range []string{o.Channels, o.Archives} {
		if u, err := url.Parse(base); base != "" &&
			(err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
			faults = append(faults, fmt.Errorf("%q is not an http or https URL", base))
		}
	}
	return errors.Join(faults...)
}

// NewChannel checks the options. Nothing is fetched before the first Pin.
func NewChannel(options ChannelOptions) (*Channel, error) {
	if err := options.Check(); err != nil {
		return nil, err
	}
	if err := options.Tags.Check(false); err != nil {
		return nil, err
	}
	options.Channels = strings.TrimRight(cmp.Or(options.Channels, DefaultChannels), "/")
	options.Archives = strings.TrimRight(cmp.Or(options.Archives, DefaultArchives), "/")
	options.Keep = cmp.Or(options.Keep, defaultKeep)
	kept, err := newRevisions(options.Dir, options.Keep)
	if err != nil {
		return nil, err
	}
	known, err := newLookups(filepath.Join(options.Dir, "channels.json"), options.Refresh, lookupTime)
	if err != nil {
		return nil, err
	}
	return &Channel{
		options:  options,
		client:   &http.Client{},
		patience: defaultPatience(),
		archives: archiveLimits{bytes: min(archiveBytes, cmp.Or(options.MaxBytes, archiveBytes)), files: 1_000_000},
		lookups:  known,
		kept:     kept,
		grown:    func() {},
		slots:    limit.NewSlots(fetchesAtOnce),
		unusable: expirable.NewLRU[string, error](unusableKept, nil, unusableMemory),
	}, nil
}

// name is the channel or commit that a tag stands for.
func (c *Channel) name(tag string) string {
	if tag == Latest {
		return c.options.Name
	}
	return tag
}

// Current knows commits, and channels that were looked up less than Refresh ago.
func (c *Channel) Current(tag string) (revision string, ok bool) {
	return c.lookups.current(c.name(tag))
}

// allow fails unless a channel or commit may be chosen.
func (c *Channel) allow(ctx context.Context, name string) error {
	if name == c.options.Name || c.options.Tags.has(AnyTag) {
		return nil
	}
	if !commitTag.MatchString(name) {
		if c.options.Tags.match(name) {
			return nil
		}
		return notAllowed("channel %s is not one of those that may be chosen (packages.tags)", name)
	}
	if last, ok := c.lookups.last(c.options.Name); ok && last == name {
		return nil
	}
	known, err := seen(ctx, c.options.Memory, name)
	if err == nil && !known {
		err = notAllowed("commit %s may not be chosen, as no channel that may be was seen there (packages.tags)", name)
	}
	return err
}

// Pin looks the channel up, unless it did so less than Refresh ago, and fetches the commit unless
// it is there. It fails with a *NotAllowedError if clients may not choose the tag.
func (c *Channel) Pin(ctx context.Context, tag string) (Pinned, error) {
	name := c.name(tag)
	pinned := Pinned{Name: "nixpkgs", Revision: name}
	if !commitTag.MatchString(name) && !channelTag.MatchString(name) {
		return Pinned{}, ErrUnknownTag
	}
	if err := c.allow(ctx, name); err != nil {
		return Pinned{}, err
	}
	if !commitTag.MatchString(name) {
		pinned.Name = "channel:" + name
		var err error
		pinned.Revision, pinned.Stale, err = c.lookups.get(ctx, name, func(ctx context.Context) (string, error) {
			return c.revision(ctx, name)
		})
		if err != nil {
			return Pinned{}, fmt.Errorf("looking up channel %s: %w", name, err)
		}
	}
	release, err := c.Lease(ctx, pinned)
	if err != nil {
		return Pinned{}, err
	}
	defer release()
	if pinned.Revision != name || name == c.options.Name {
		see(ctx, c.options.Memory, pinned.Revision)
	}
	pinned.Commit = pinned.Revision
	if chosen, ok := c.Current(Latest); tag == Latest || ok && chosen == pinned.Revision {
		pinned.Origin = "channel " + c.options.Name + " " + c.options.Archives
	}
	pinned.Path = c.kept.path(pinned.Revision)
	pinned.Date, err = c.kept.date(pinned.Revision)
	return pinned, err
}

// Lease fetches the commit again if it is gone, unless its archive could not be unpacked within the
// last minute. Each commit is fetched by one caller at a time, and only few commits are at once.
func (c *Channel) Lease(ctx context.Context, pinned Pinned) (release func(), err error) {
	for {
		release, there, err := c.kept.lease(pinned.Revision)
		if there || err != nil {
			return release, err
		}
		_, err, _ = c.fetching.Do(pinned.Revision, func() (any, error) {
			ctx := context.WithoutCancel(ctx) // others may wait for it
			if err := c.kept.revive(ctx, pinned.Revision); !errors.Is(err, ErrUnknownTag) {
				return nil, err
			}
			if err, known := c.unusable.Get(pinned.Revision); known {
				return nil, err
			}
			release, err := c.slots.Acquire(ctx)
			if err != nil {
				return nil, err
			}
			defer release()
			defer c.grown()
			return nil, c.fetch(ctx, pinned.Revision)
		})
		if err != nil {
			return nil, fmt.Errorf("fetching nixpkgs %s: %w", pinned.Revision, err)
		}
	}
}

// revision asks for the commit of a channel.
func (c *Channel) revision(ctx context.Context, name string) (string, error) {
	from := c.options.Channels + "/" + name + "/git-revision"
	body, err := c.get(ctx, from)
	if errors.Is(err, ErrUnknownTag) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", redacted(from), err)
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, 100))
	if err != nil {
		return "", err
	}
	revision := strings.TrimSpace(string(text))
	if !commitTag.MatchString(revision) {
		return "", fmt.Errorf("its git-revision is %q, not a commit", revision)
	}
	return revision, nil
}

// fetch unpacks the files of a commit. Archives of git date their files by the commit. Contents
// that another revision has are not written again.
func (c *Channel) fetch(ctx context.Context, commit string) error {
	from := c.options.Archives + "/" + commit + ".tar.gz"
	known := c.kept.newestFiles()
	err := c.unpack(ctx, from, commit, known)
	if missing := (*missingContent)(nil); errors.As(err, &missing) { // somebody has tidied up
		err = c.unpack(ctx, from, commit, nil)
	}
	if isFault(err) {
		err = fmt.Errorf("%w: %w", &ArchiveError{Revision: commit, Reason: err.Error()}, err)
	}
	if err != nil && !errors.Is(err, ErrUnknownTag) {
		err = fmt.Errorf("%s: %w", redacted(from), err)
	}
	if isFault(err) {
		c.unusable.Add(commit, err)
	}
	return err
}

func (c *Channel) unpack(ctx context.Context, from, commit string, known []file) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTime, fmt.Errorf("it takes longer than %v", fetchTime))
	defer cancel()
	body, err := c.get(ctx, from)
	if err != nil {
		return err
	}
	defer body.Close()
	d, err := c.kept.begin(len(known) == 0)
	if err != nil {
		return err
	}
	u := unpacking{draft: d, known: known, limit: c.archives}
	defer func() { d.end(len(u.files)) }()
	files, date, err := u.unpack(ctx, body)
	if err != nil {
		return err
	}
	return d.publish(ctx, commit, files, date)
}

// redacted is a URL without its password, for logs.
func redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "the archive"
	}
	return u.Redacted()
}

// get does a GET that must be answered by 200. A 404 is ErrUnknownTag.
func (c *Channel) get(ctx context.Context, from string) (io.ReadCloser, error) {
	response, err := getPatiently(ctx, c.client, from, c.patience)
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		return response.Body, nil
	case http.StatusNotFound, http.StatusGone:
		err = ErrUnknownTag
	default:
		err = fmt.Errorf("the server answers %s", response.Status)
	}
	return nil, errors.Join(err, response.Body.Close())
}
