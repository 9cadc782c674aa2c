package retention

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

var today = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// daysAgo is noon of a day.
func daysAgo(n int) time.Time { return today.AddDate(0, 0, -n) }

// an image was built and pulled so many days ago.
func an(name, revision string, built, pulled int, blobs ...*Blob) Image {
	repository, tag, _ := strings.Cut(name, ":")
	return Image{
		Repository: repository, Tag: tag, Digest: digest.FromString(repository + revision), Revision: revision,
		Built: daysAgo(built), Pulled: daysAgo(pulled), Blobs: blobs,
	}
}

func held(image Image) Image   { image.Held = true; return image }
func needed(image Image) Image { image.Needed = true; return image }

func TestDecide(t *testing.T) {
	base := &Blob{Size: 1000}
	one, two, three := &Blob{Size: 100}, &Blob{Size: 200}, &Blob{Size: 300}
	pushed := &Blob{Size: 5000, Pushed: true}
	month := Limits{Unused: 30 * 24 * time.Hour}
	for _, test := range []struct {
		name   string
		limits Limits
		images []Image
		want   []string // NAME:TAG BYTES
	}{
		{name: "no limit", images: []Image{an("git:r1", "r1", 900, 900)}},
		{
			name: "unused", limits: month,
			images: []Image{an("git:latest", "r1", 900, 2), an("git:r1", "r1", 900, 900), an("git:r0", "r0", 901, 32)},
			want:   []string{"git:r0 0"}, // latest is used, and r1 is what it is on
		},
		{
			name: "unused with the tag that moves", limits: month,
			images: []Image{
				an("git:latest", "r1", 900, 40), an("git:r1", "r1", 900, 40), an("htop:latest", "r1", 9, 9),
			},
			want: []string{"git:latest 0", "git:r1 0"},
		},
		{
			name: "a tag that moves goes, the tag of its revision is used", limits: month,
			images: []Image{an("git:main", "r1", 900, 40), an("git:r1", "r1", 900, 4)},
			want:   []string{"git:main 0"},
		},
		{
			name: "a record may be a day old", limits: month,
			images: []Image{an("git:r1", "r1", 900, 31), an("git:r2", "r2", 900, 32)},
			want:   []string{"git:r2 0"},
		},
		{
			name: "a time in the future is no reason", limits: Limits{Unused: 24 * time.Hour, Keep: 1},
			images: []Image{an("git:r1", "r1", -500, -500), an("git:r2", "r2", -501, -400)},
		},
		{
			name: "keep, for each name", limits: Limits{Keep: 2},
			images: []Image{
				an("git:latest", "r4", 1, 1), an("git:r1", "r1", 4, 1), an("git:r2", "r2", 3, 1),
				an("git:r3", "r3", 2, 1), an("git:r4", "r4", 1, 1), an("htop:r1", "r1", 9, 9),
				an("htop:r2", "r2", 8, 9),
			},
			want: []string{"git:r2 0", "git:r1 0"},
		},
		{
			name: "keep takes no tag that moves, nor that of a revision which such a tag is on", limits: Limits{Keep: 1},
			images: []Image{
				an("git:latest", "r4", 1, 1), an("git:main", "r1", 9, 1), an("git:old", "r2", 9, 1),
				an("git:r1", "r1", 9, 1), an("git:r2", "r2", 8, 1), an("git:r3", "r3", 7, 1), an("git:r4", "r4", 1, 1),
			},
			want: []string{"git:r3 0"},
		},
		{
			name: "what is wanted stays, and what is young", limits: Limits{Keep: 1, Unused: month.Unused, MaxBytes: 1},
			images: []Image{
				held(an("git:r1", "r1", 40, 40, one)), an("git:r2", "r2", 0, 0, two), an("git:r3", "r3", 0, 0, three),
			},
		},
		{
			name: "of a needed image the newest tag stays", limits: Limits{Unused: month.Unused, MaxBytes: 1},
			images: []Image{
				an("git:r9", "r9", 1, 1, one), needed(an("git:old", "r", 99, 99, two)),
				needed(an("git:r", "r", 98, 99, two)), needed(an("git:latest", "r", 97, 99, two)),
			},
			want: []string{"git:old 0", "git:r 0", "git:r9 100"},
		},
		{
			name: "bytes, of the least recently pulled first", limits: Limits{MaxBytes: 1300},
			images: []Image{
				an("a:latest", "r1", 9, 3, base, one), an("b:latest", "r1", 9, 2, base, two),
				an("b:r1", "r1", 9, 9, base, two), an("c:latest", "r1", 9, 1, base, three),
			},
			want: []string{"a:latest 100", "b:latest 0", "b:r1 200"},
		},
		{
			name: "bytes that something pushed has, too, do not count", limits: Limits{MaxBytes: 300},
			images: []Image{an("a:latest", "r1", 9, 3, pushed, one), an("b:latest", "r1", 9, 2, pushed, two)},
		},
		{
			name: "bytes of which nothing else is left", limits: Limits{MaxBytes: 1},
			images: []Image{an("a:latest", "r1", 9, 3, base, one, pushed), an("b:latest", "r1", 9, 2, base)},
			want:   []string{"a:latest 100", "b:latest 1000"},
		},
		{
			name: "all limits, in their order", limits: Limits{Unused: month.Unused, Keep: 1, MaxBytes: 1000},
			images: []Image{
				an("a:r1", "r1", 90, 90, base, one), an("a:r2", "r2", 9, 9, base, two),
				an("a:r3", "r3", 8, 8, base, three), an("b:latest", "r1", 9, 2, base),
			},
			want: []string{"a:r1 100", "a:r2 200", "a:r3 300"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, removal := range Decide(test.images, test.limits, today) {
				got = append(got, fmt.Sprintf("%s:%s %d", removal.Repository, removal.Tag, removal.Bytes))
				if removal.Reason == "" {
					t.Error("there is no reason")
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("there go %q, want %q", got, test.want)
			}
		})
	}
}
