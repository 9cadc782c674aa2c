package source

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Where channels and nixpkgs are, unless the options say otherwise.
const (
	DefaultChannels = "https://channels.nixos.org"
	DefaultArchives = "https://github.com/NixOS/nixpkgs/archive"
)

const (
	// fetchTime is how long a remote may take for a package set.
	fetchTime = 15 * time.Minute
	// maxTreeBytes and maxTreeFiles are several times what nixpkgs is.
	maxTreeBytes = 4 << 30
	maxTreeFiles = 1_000_000
)

// ChannelOptions say where a channel is. Name is needed.
type ChannelOptions struct {
	// Name is a channel, such as nixos-25.11, or a commit of nixpkgs, as 40 hexadecimal digits.
	Name string
	// Channels has a file NAME/git-revision for each channel; empty: DefaultChannels.
	Channels string
	// Archives has a file COMMIT.tar.gz for each commit, whose files are below one directory; empty: DefaultArchives.
	Archives string
	// Dir is where trees are kept; Keep is how many, zero: 4.
	Dir  string
	Keep int
	// Refresh is how long a channel is believed to stand where it stood.
	Refresh time.Duration
}

// Channel is nixpkgs as a channel of Nix or NixOS has it. A tag may be another channel or a commit.
type Channel struct {
	options ChannelOptions
	client  *http.Client
	lookups *lookups
	trees   *trees
}

var (
	commitTag  = regexp.MustCompile(`^[0-9a-f]{40}$`)
	channelTag = regexp.MustCompile(`^(nixos|nixpkgs|release)-[0-9a-z][0-9a-z.-]{0,60}$`)
)

// Check tells what is impossible about the options.
func (o ChannelOptions) Check() error {
	var faults []error
	if !channelTag.MatchString(o.Name) && !commitTag.MatchString(o.Name) {
		faults = append(faults, fmt.Errorf("%q is neither a channel, such as nixos-25.11, nor a full commit", o.Name))
	}
	for _, base := range []string{o.Channels, o.Archives} {
		if u, err := url.Parse(base); base != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
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
	options.Channels = strings.TrimRight(cmp.Or(options.Channels, DefaultChannels), "/")
	options.Archives = strings.TrimRight(cmp.Or(options.Archives, DefaultArchives), "/")
	options.Keep = cmp.Or(options.Keep, keptRevisions)
	kept, err := newTrees(options.Dir, options.Keep)
	if err != nil {
		return nil, err
	}
	known, err := newLookups(filepath.Join(options.Dir, "channels.json"), options.Refresh)
	if err != nil {
		return nil, err
	}
	return &Channel{options: options, client: &http.Client{Timeout: fetchTime}, lookups: known, trees: kept}, nil
}

// name is the channel or commit that a tag stands for.
func (c *Channel) name(tag string) string {
	if tag == Latest {
		return c.options.Name
	}
	return tag
}

// Current knows commits, and channels that were looked up lately.
func (c *Channel) Current(tag string) (revision string, ok bool) {
	return c.lookups.current(c.name(tag))
}

// Pin looks the channel up, unless it did so lately, and fetches the commit unless it is there.
func (c *Channel) Pin(ctx context.Context, tag string) (Pinned, error) {
	name := c.name(tag)
	pinned := Pinned{Name: "nixpkgs", Revision: name}
	if !commitTag.MatchString(name) {
		if !channelTag.MatchString(name) {
			return Pinned{}, ErrUnknownTag
		}
		pinned.Name = "channel:" + name
		var err error
		pinned.Revision, pinned.Stale, err = c.lookups.get(ctx, name, func(ctx context.Context) (string, error) {
			return c.revision(ctx, name)
		})
		if err != nil {
			return Pinned{}, fmt.Errorf("looking up channel %s: %w", name, err)
		}
	}
	release, err := c.Hold(ctx, pinned)
	if err != nil {
		return Pinned{}, err
	}
	defer release()
	pinned.Commit = pinned.Revision
	if chosen, ok := c.Current(Latest); tag == Latest || ok && chosen == pinned.Revision {
		pinned.Origin = "channel " + c.options.Name + " " + c.options.Archives
	}
	pinned.Path = c.trees.path(pinned.Revision)
	pinned.Date, err = c.trees.date(pinned.Revision)
	return pinned, err
}

// Hold fetches the commit again if it is gone.
func (c *Channel) Hold(ctx context.Context, pinned Pinned) (release func(), err error) {
	release, err = c.trees.makeHeld(pinned.Revision, func(dir string) (time.Time, error) {
		return c.fetch(ctx, pinned.Revision, dir)
	})
	if err != nil {
		return nil, fmt.Errorf("fetching nixpkgs %s: %w", pinned.Revision, err)
	}
	return release, nil
}

// revision asks for the commit of a channel.
func (c *Channel) revision(ctx context.Context, name string) (string, error) {
	body, err := c.get(ctx, c.options.Channels+"/"+name+"/git-revision")
	if err != nil {
		return "", err
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

// fetch unpacks the files of a commit into dir. Archives of git date their files by the commit.
func (c *Channel) fetch(ctx context.Context, commit, dir string) (time.Time, error) {
	body, err := c.get(ctx, c.options.Archives+"/"+commit+".tar.gz")
	if err != nil {
		return time.Time{}, err
	}
	defer body.Close()
	uncompressed, err := gzip.NewReader(bufio.NewReaderSize(body, 1<<16))
	if err != nil {
		return time.Time{}, err
	}
	return unpack(uncompressed, dir)
}

// get is a GET whose answer is 200. A 404 is ErrUnknownTag.
func (c *Channel) get(ctx context.Context, from string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		return response.Body, nil
	case http.StatusNotFound, http.StatusGone:
		err = ErrUnknownTag
	default:
		err = fmt.Errorf("%s answers %s", from, response.Status)
	}
	return nil, errors.Join(err, response.Body.Close())
}

// unpack puts the files of an archive, without the one directory that they are all in, into dir, and returns the time of the youngest.
// What the archive holds is not trusted: nothing leaves dir, and there are limits.
func unpack(archive io.Reader, dir string) (date time.Time, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return date, err
	}
	defer root.Close()
	left := int64(maxTreeBytes)
	reader := tar.NewReader(archive)
	for files := 0; ; files++ {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return date, nil
		}
		if err != nil {
			return date, err
		}
		if left -= entry.Size; left < 0 || files > maxTreeFiles {
			return date, fmt.Errorf("it has more than %d bytes or %d files", int64(maxTreeBytes), maxTreeFiles)
		}
		if entry.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		_, name, ok := strings.Cut(path.Clean(entry.Name), "/")
		if !ok {
			continue // the one directory
		}
		if entry.ModTime.After(date) {
			date = entry.ModTime
		}
		if err := unpackEntry(root, name, entry, reader); err != nil {
			return date, fmt.Errorf("unpacking %s: %w", name, err)
		}
	}
}

func unpackEntry(root *os.Root, name string, entry *tar.Header, content io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch entry.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(entry.Linkname, name)
	case tar.TypeReg:
		permissions := fs.FileMode(0o644)
		if entry.Mode&0o111 != 0 {
			permissions = 0o755
		}
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, permissions)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		return errors.Join(err, file.Close())
	}
	return fmt.Errorf("it is neither a file, a directory nor a symlink")
}
