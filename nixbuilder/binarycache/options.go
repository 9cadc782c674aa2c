package binarycache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Options say which binary caches are asked, and which keys are trusted.
type Options struct {
	// Substituters are the URLs of caches: http, https, s3 and file. Their only parameter is Nix's
	// priority (https://cache.example.org?priority=10), which comes before the cache's own. Those of
	// s3 may also have region, endpoint, scheme and profile.
	Substituters []string
	// Share is asked before all others.
	Share Share
	// TrustedPublicKeys are in Nix's form, NAME:BASE64.
	TrustedPublicKeys []string
	// Attempts is how often a request is tried that fails for a transient reason, the first time
	// included. A download that goes on where it was cut off is another attempt. Zero: 3.
	Attempts int
	// Pause is the time before the second attempt. Each further one waits twice as long. Zero: 300
	// ms.
	Pause time.Duration
	// Patience is how long an answer may take to begin, and how long each 64 KiB of it may take to
	// arrive. Zero: 30 s.
	Patience time.Duration
}

// A Share is a cache that lookups do not depend on: where it does not answer, others are asked, as
// if it were empty.
type Share struct {
	// URL is as in Options.Substituters; empty: there is none.
	URL string
	// Usable tells whether it answers. It is asked once for each closure.
	Usable func(context.Context) bool
	// Failed is called when it does not answer as it should.
	Failed func(error)
}

// CheckSubstituters returns all faults of the URLs, joined.
func (o Options) CheckSubstituters() error {
	var faults []error
	if len(o.Substituters) == 0 && o.Share.URL == "" {
		faults = append(faults, errors.New("none, and storeless builds take all from binary caches"))
	}
	for _, substituter := range o.Substituters {
		parsed, err := parseSubstituter(substituter)
		if err == nil && parsed.url.Scheme == "file" {
			err = isDirectory(parsed.url)
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// CheckURL tells what is wrong with the URL of a cache. It does not look whether there is one.
func CheckURL(substituter string) error {
	_, err := parseSubstituter(substituter)
	return err
}

func isDirectory(u *url.URL) error {
	if info, err := os.Stat(u.Path); err != nil || !info.IsDir() {
		return fmt.Errorf("%q is not a directory", u.Redacted())
	}
	return nil
}

// CheckTrustedPublicKeys returns all faults of the keys, joined.
func (o Options) CheckTrustedPublicKeys() error {
	var faults []error
	if len(o.TrustedPublicKeys) == 0 {
		faults = append(faults, errors.New("none, and storeless builds take only what a trusted key has signed"))
	}
	for _, key := range o.TrustedPublicKeys {
		if _, err := signature.ParsePublicKey(key); err != nil {
			faults = append(faults, fmt.Errorf("%q is not NAME:BASE64: %w", key, err))
		}
	}
	return errors.Join(faults...)
}

// New prepares the use of binary caches. None is asked before it is needed.
func New(o Options) (*Caches, error) {
	if err := errors.Join(o.CheckSubstituters(), o.CheckTrustedPublicKeys()); err != nil {
		return nil, fmt.Errorf("configuring binary caches: %w", err)
	}
	o.Attempts = cmp.Or(o.Attempts, 3)
	o.Pause = cmp.Or(o.Pause, 300*time.Millisecond)
	o.Patience = cmp.Or(o.Patience, 30*time.Second)
	keys := make([]signature.PublicKey, len(o.TrustedPublicKeys))
	for i, key := range o.TrustedPublicKeys {
		var err error
		if keys[i], err = signature.ParsePublicKey(key); err != nil {
			return nil, err
		}
	}
	client := newClient(o.Patience)
	caches := make([]*cache, len(o.Substituters))
	for i, substituter := range o.Substituters {
		var err error
		if caches[i], err = o.open(substituter, client); err != nil {
			return nil, err
		}
	}
	if o.Share.URL != "" {
		once := o
		once.Attempts = 1
		share, err := once.open(o.Share.URL, client)
		if err != nil {
			return nil, err
		}
		share.share = &o.Share
		caches = append([]*cache{share}, caches...)
	}
	return newCaches(caches, keys), nil
}

func (o Options) open(substituter string, client *http.Client) (*cache, error) {
	parsed, err := parseSubstituter(substituter)
	if err != nil {
		return nil, err
	}
	opened := &cache{substituter: parsed, options: o}
	switch parsed.url.Scheme {
	case "file":
		opened.files = directory(parsed.url.Path)
	case "s3":
		opened.files, err = newBucket(client, parsed, o.Patience)
	default:
		opened.files = httpFiles{client: client, base: parsed.url, patience: o.Patience}
	}
	opened.files = measured{opened.files, metrics.CacheOf(cmp.Or(parsed.url.Host, parsed.url.Scheme))}
	return opened, err
}

// Answers asks a cache, which is given as in Options.Substituters, whether it is there. The error is
// fs.ErrNotExist if it answers and is no cache yet.
func Answers(ctx context.Context, substituter string) error {
	o := Options{Attempts: 1, Patience: 30 * time.Second}
	client := newClient(o.Patience)
	defer client.CloseIdleConnections()
	c, err := o.open(substituter, client)
	if err == nil {
		_, err = c.rank(ctx)
	}
	return err
}

// Signers returns the names of the keys that have signed a path, as a cache says, sorted. The cache
// is given as in Options.Substituters. No signature is checked.
func Signers(ctx context.Context, substituter string, p store.Path) ([]string, error) {
	o := Options{Attempts: 1, Patience: 30 * time.Second}
	client := newClient(o.Patience)
	defer client.CloseIdleConnections()
	c, err := o.open(substituter, client)
	if err != nil {
		return nil, err
	}
	text, err := c.read(ctx, hashPart(p)+".narinfo")
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w", p, err)
	}
	return signers(text), nil
}

// A substituter is the parsed URL of a cache.
type substituter struct {
	url *url.URL
	// priority is -1 if the URL has none.
	priority int
	query    url.Values // of buckets
}

func parseSubstituter(text string) (substituter, error) {
	u, err := url.Parse(text)
	if err != nil {
		return substituter{}, errors.New("a substituter is not a URL") // not err, which shows credentials
	}
	s := substituter{url: u, priority: -1, query: u.Query()}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return s, fmt.Errorf("%q has no host", u.Redacted())
		}
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return s, fmt.Errorf("%q is not file:// and an absolute path", u.Redacted())
		}
		u.Path = filepath.Clean(u.Path)
	case "s3":
		if err := checkBucket(u); err != nil {
			return s, err
		}
	default:
		return s, fmt.Errorf(
			"%q is not a cache that storeless builds can read: they take http, https, s3 and file", u.Redacted(),
		)
	}
	for key, values := range s.query {
		if u.Scheme == "s3" && slices.Contains(bucketParameters, key) {
			continue
		}
		if key != "priority" {
			return s, fmt.Errorf("%q: storeless builds know no parameter but priority", u.Redacted())
		}
		if s.priority, err = strconv.Atoi(values[0]); err != nil || s.priority < 0 {
			return s, fmt.Errorf("%q: the priority is not a whole number", u.Redacted())
		}
	}
	u.RawQuery, u.Fragment = "", ""
	return s, nil
}
