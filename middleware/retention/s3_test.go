package retention

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	s3 "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A bucket lists a thousand names at a time. All tags beyond that are found, and those that go leave
// nothing.
func TestBucket(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	defer server.Close()
	bucket, err := s3.FromParameters(t.Context(), map[string]any{
		"bucket": "images", "region": "us-east-1", "regionendpoint": server.URL, "forcepathstyle": true,
		"secure": false, "accesskey": "key", "secretkey": "secret",
	})
	if err != nil {
		t.Fatal(err)
	}
	r := openRegistry(t, bucket, &clock{now: time.Now()})
	const pushed = 1001
	own := manifest("own", v1.Descriptor{})
	r.push(t, "git", "own", own)
	repo := r.repository(t, "git")
	all, ctx := errgroup.WithContext(t.Context())
	all.SetLimit(16)
	for i := range pushed - 1 {
		all.Go(func() error {
			return repo.Tags(ctx).Tag(ctx, fmt.Sprintf("own-%04d", i), v1.Descriptor{Digest: own.Digest})
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, revision := range []string{"a1", "z2", "a3"} { // before and after the others
		r.build(t, "git", revision, []string{"latest"}, manifest(revision, v1.Descriptor{}))
		r.pass(time.Hour)
	}
	r.pass(2 * time.Hour)
	result := r.run(t, Limits{Keep: 1})
	if len(result.Removals) != 2 || result.Images != 4 {
		t.Errorf("%d of %d tags were removed", len(result.Removals), result.Images)
	}
	got := r.tags(t, "git")
	built := slices.DeleteFunc(slices.Clone(got), func(tag string) bool { return strings.HasSuffix(tag, "*") })
	if !slices.Equal(built, []string{"git:a3", "git:latest"}) || len(got) != pushed+2 {
		t.Errorf("of %d tags, there were built %q", len(got), built)
	}
}
