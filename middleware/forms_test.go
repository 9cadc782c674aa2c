package middleware

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

const (
	dockerType = image.MediaTypeDockerManifest
	listType   = image.MediaTypeDockerList
	signedType = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	stored     = imagestore.Form("")
)

// The clients of these tests send what is said here, and get one form of an image of one platform,
// and one of an image of several. None stands for a single image of the default platform.
func TestForms(t *testing.T) {
	const none = imagestore.Form("none")
	all := strings.Join([]string{dockerType, listType, v1.MediaTypeImageIndex, v1.MediaTypeImageManifest}, ", ")
	for _, test := range []struct {
		name       string
		accept     []string
		one, index imagestore.Form
	}{
		{"docker, podman, skopeo", []string{all + ", " + signedType + ", application/json"}, stored, stored},
		{"containerd", []string{all + ", */*"}, stored, stored},
		{"each on a line of its own", strings.Split(all, ", "), stored, stored},
		{"in capitals", []string{strings.ToUpper(all)}, stored, stored},
		{"an index only", []string{v1.MediaTypeImageIndex}, imagestore.Index, stored},
		{"a list only", []string{listType}, imagestore.List, imagestore.List},
		{"an index or a list", []string{listType + "," + v1.MediaTypeImageIndex}, imagestore.Index, stored},
		{"Docker's only", []string{dockerType + ", " + listType}, imagestore.Docker, imagestore.List},
		{"Docker's manifest only", []string{dockerType}, imagestore.Docker, none},
		{"OCI's manifest only", []string{v1.MediaTypeImageManifest}, stored, none},
		{"manifests of both", []string{dockerType, v1.MediaTypeImageManifest + ";q=0.5"}, stored, none},
		{"an index, or Docker's manifest", []string{v1.MediaTypeImageIndex, dockerType}, imagestore.Docker, stored},
		{"nothing", nil, imagestore.Docker, none},
		{"an empty header", []string{"", ", ,"}, imagestore.Docker, none},
		{"anything", []string{"*/*"}, imagestore.Docker, none},
		{"anything of a kind", []string{"application/*; q=0.3"}, imagestore.Docker, none},
		{"JSON", []string{"application/json"}, imagestore.Docker, none},
		{"the schema of long ago", []string{signedType}, imagestore.Docker, none},
		{"a browser", []string{"text/html,application/xhtml+xml,*/*;q=0.8"}, imagestore.Docker, none},
		{"anything but a list", []string{"*/*", listType + ";q=0"}, imagestore.Docker, none},
		{"never an index", []string{v1.MediaTypeImageIndex + "; q=0.000", listType}, imagestore.List, imagestore.List},
		{"parameters", []string{v1.MediaTypeImageManifest + `; charset="utf-8, or so"; q=1.0`}, imagestore.Docker, none},
		{"a parameter", []string{v1.MediaTypeImageManifest + `; charset=utf-8; q=1.0`}, stored, none},
		{"what can't be parsed", []string{v1.MediaTypeImageManifest + "; q", "/", ";;", "\x00"}, imagestore.Docker, none},
		{"after very much else", []string{strings.Repeat("a/b,", maxAccepted) + listType}, imagestore.Docker, none},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := acceptsOf(http.Header{"Accept": test.accept})
			if got := a.form(false); got != test.one {
				t.Errorf("of one platform: %q, want %q", got, test.one)
			}
			index := none
			if a.index || a.list {
				index = a.form(true)
			}
			if index != test.index {
				t.Errorf("of several: %q, want %q", index, test.index)
			}
		})
	}
}

func TestWantsManifest(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "text/html, */*": false, "application/json": false, "application/*": false,
		dockerType: true, listType: true, v1.MediaTypeImageIndex: true, v1.MediaTypeImageManifest + ", */*": true,
		"application/json, application/vnd.docker.distribution.manifest.v1+prettyjws": true,
		v1.MediaTypeImageManifest + ";q=0":                                            false,
	} {
		if got := wantsManifest(http.Header{"Accept": {accept}}); got != want {
			t.Errorf("%q wants a manifest: %t, want %t", accept, got, want)
		}
	}
}

func FuzzAccept(f *testing.F) {
	f.Add(v1.MediaTypeImageIndex + ";q=0, */*")
	f.Add(`a/b; c="d, e", ,;=`)
	f.Add("\xff/\x00")
	f.Fuzz(func(t *testing.T, accept string) {
		header := http.Header{"Accept": {accept}}
		if a := acceptsOf(header); a == (accepts{}) && a.form(false) != imagestore.Docker {
			t.Errorf("who names nothing gets %q", a.form(false))
		}
		page := http.Header{"Accept": {"text/html, " + accept}}
		if wantsManifest(page) {
			t.Errorf("%q wants no page", page)
		}
	})
}
