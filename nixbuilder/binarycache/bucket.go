package binarycache

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// defaultRegion is Nix's own.
const defaultRegion = "us-east-1"

// A bucket is a cache in an object store that speaks Amazon's protocol, by Nix's URL:
// s3://BUCKET?region=…&endpoint=HOST:PORT&scheme=http&profile=…
//
// Credentials are looked for as Nix does: in the environment, in the files of Amazon's programs,
// and with the machine's own account.
type bucket struct {
	client   *minio.Core
	name     string
	patience time.Duration
}

// bucketParameters are those of Nix that are heeded.
var bucketParameters = []string{"region", "endpoint", "scheme", "profile"}

func newBucket(client *http.Client, s substituter, patience time.Duration) (*bucket, error) {
	profile := s.query.Get("profile")
	chain := []credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	}
	if profile != "" {
		chain = []credentials.Provider{&credentials.FileAWSCredentials{Profile: profile}}
	}
	region := cmp.Or(
		s.query.Get("region"), os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), defaultRegion,
	)
	endpoint, scheme := s.query.Get("endpoint"), cmp.Or(s.query.Get("scheme"), "https")
	if before, after, ok := strings.Cut(endpoint, "://"); ok {
		scheme, endpoint = before, after
	}
	lookup := minio.BucketLookupPath
	if endpoint == "" {
		endpoint, lookup = "s3."+region+".amazonaws.com", minio.BucketLookupAuto
	}
	opened, err := minio.NewCore(endpoint, &minio.Options{
		Creds: credentials.NewChainCredentials(chain), Secure: scheme != "http", Region: region,
		Transport: client.Transport, BucketLookup: lookup, MaxRetries: 1, // the download tries again
	})
	if err != nil {
		return nil, fmt.Errorf("%q: %w", s.url.Redacted(), err)
	}
	return &bucket{client: opened, name: s.url.Host, patience: patience}, nil
}

func (b *bucket) open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	ref, err := url.Parse(name)
	if err != nil {
		return nil, err
	}
	body, _, err := b.get(ctx, ref.Path, offset)
	return body, err
}

// get reads an object from an offset on. Size is that of what is read.
func (b *bucket) get(ctx context.Context, object string, offset int64) (body io.ReadCloser, size int64, err error) {
	var options minio.GetObjectOptions
	if offset > 0 {
		if err := options.SetRange(offset, 0); err != nil {
			return nil, 0, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	body, info, _, err := b.client.GetObject(ctx, b.name, object, options)
	if err != nil {
		cancel(nil)
		return nil, 0, absent(err)
	}
	return &watched{
		body: body, cancel: cancel, cause: func() error { return context.Cause(ctx) }, patience: b.patience,
	}, info.Size, nil
}

// absent makes fs.ErrNotExist of the errors that mean it. Object stores forbid what is not there to
// those who may not list what is.
func absent(err error) error {
	if err == nil {
		return nil
	}
	switch answer := minio.ToErrorResponse(err); answer.StatusCode {
	case http.StatusNotFound, http.StatusForbidden:
		return fmt.Errorf("it answers %s: %w", answer.Code, fs.ErrNotExist)
	}
	return err
}

// checkBucket tells what is wrong with the URL of a bucket.
func checkBucket(u *url.URL) error {
	switch scheme := u.Query().Get("scheme"); {
	case u.Host == "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("%q is not s3:// and the name of a bucket", u.Redacted())
	case u.User != nil:
		return errors.New("a bucket has a user in its URL: credentials stand in the environment or in ~/.aws/credentials")
	case scheme != "" && scheme != "http" && scheme != "https":
		return fmt.Errorf("%q: the scheme is neither http nor https", u.Redacted())
	}
	return nil
}

// A Gateway lets Nix read and write the cache in a bucket over HTTP on loopback. Not every Nix can
// speak to buckets, and none of them gets credentials. It is safe for concurrent use.
type Gateway struct {
	bucket   *bucket
	listener net.Listener
	server   *http.Server
	read     string // what URLs for reading begin with
	write    string
}

// How much of an object is in memory while it is written, in bytes.
const partBytes = 16 << 20

// OpenGateway serves a bucket until Close, by its URL as in Options.Substituters. Whoever does not
// know ReadURL or WriteURL gets nothing.
func OpenGateway(substituter string) (*Gateway, error) {
	const patience = 30 * time.Second
	parsed, err := parseSubstituter(substituter)
	if err != nil {
		return nil, err
	}
	opened, err := newBucket(newClient(patience), parsed, patience)
	if err != nil {
		return nil, err
	}
	g := &Gateway{bucket: opened, read: "/" + rand.Text(), write: "/" + rand.Text()}
	g.listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a gateway to a bucket: %w", err)
	}
	g.server = &http.Server{Handler: g, ReadHeaderTimeout: patience}
	go func() { _ = g.server.Serve(g.listener) }()
	return g, nil
}

// ReadURL is where Nix reads the cache.
func (g *Gateway) ReadURL() string { return "http://" + g.listener.Addr().String() + g.read }

// WriteURL is where Nix reads and writes the cache.
func (g *Gateway) WriteURL() string { return "http://" + g.listener.Addr().String() + g.write }

// Close ends it, with what is under way.
func (g *Gateway) Close() { _ = g.server.Close() }

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, mayWrite := strings.CutPrefix(r.URL.Path, g.write+"/")
	mayRead := mayWrite
	if !mayWrite {
		name, mayRead = strings.CutPrefix(r.URL.Path, g.read+"/")
	}
	var err error
	switch {
	case !mayRead || !fs.ValidPath(name):
		err = fs.ErrNotExist
	case r.Method == http.MethodGet:
		err = g.get(w, r, name)
	case r.Method == http.MethodHead:
		_, err = g.bucket.client.StatObject(r.Context(), g.bucket.name, name, minio.StatObjectOptions{})
		err = absent(err)
	case r.Method == http.MethodPut && mayWrite:
		_, err = g.bucket.client.Client.PutObject(
			r.Context(), g.bucket.name, name, r.Body, r.ContentLength,
			minio.PutObjectOptions{ContentType: r.Header.Get("Content-Type"), PartSize: partBytes, NumThreads: 1},
		)
	default:
		http.Error(w, "not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

func (g *Gateway) get(w http.ResponseWriter, r *http.Request, name string) error {
	body, size, err := g.bucket.get(r.Context(), name, 0)
	if err != nil {
		return err
	}
	defer body.Close()
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	_, _ = io.Copy(w, body) // what is cut off is shorter than was said
	return nil
}
