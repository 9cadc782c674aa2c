package integration

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// An image that a version made which knew no formats is made again at its next pull, once, and the
// tag of its revision stays. An image of a newer version stays, too.
func TestOlderFormat(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	image := r.Pull(t, "quick")
	revision := image.Annotations["org.opencontainers.image.revision"]
	for _, test := range []struct {
		name, format string // what the record has in place of the format
		builds       int
	}{
		{"none", "", 1},
		{"an older one", `,"format":1`, 1},
		{"a newer one", `,"format":1000000`, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.Stop()
			format := regexp.MustCompile(`,"format":\d+`)
			for _, file := range files(t, filepath.Join(r.storage(), "nix", "v1", "tags")) {
				_, record, _ := strings.Cut(Read(t, file), "\n")
				if !format.MatchString(record) {
					t.Fatalf("the record is %s", record)
				}
				record = format.ReplaceAllLiteralString(record, test.format)
				Write(t, file, fmt.Sprintf("%x\n%s", sha256.Sum256([]byte(record)), record))
			}
			before := strings.Count(r.Log(), logBuilt)
			r.Start()
			for _, tag := range []string{revision, "latest", "latest", revision} {
				if got := r.PullTag(t, "quick", tag); got.Digest != image.Digest {
					t.Errorf("%s is %s, want %s", tag, got.Digest, image.Digest)
				}
			}
			if builds := strings.Count(r.Log(), logBuilt) - before; builds != test.builds {
				t.Errorf("it was made %d times, want %d", builds, test.builds)
			}
		})
	}
}
