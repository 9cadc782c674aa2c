package image

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

var amd64, armv7 = v1.Platform{OS: "linux", Architecture: "amd64"},
	v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}

// manifestOf is an OCI manifest of some layers, compressed in some way.
func manifestOf(t *testing.T, compression compress.Compression, config string) []byte {
	t.Helper()
	oci, err := NewManifest([]byte(config), someLayers, compression.MediaType(), map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	return oci.Payload
}

func parse[T any](t *testing.T, payload []byte) (value T) {
	t.Helper()
	if err := json.Unmarshal(payload, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestDockerForm(t *testing.T) {
	for _, test := range []struct {
		compression compress.Compression
		want        string // the layers' media type; empty: there is no such form
	}{
		{compress.Gzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{compress.None, "application/vnd.docker.image.rootfs.diff.tar"},
		{compress.Zstd, ""},
	} {
		t.Run(test.compression.String(), func(t *testing.T) {
			oci := manifestOf(t, test.compression, "{}")
			docker, err := DockerForm(oci)
			if test.want == "" {
				_, _, inList := DockerList([]Child{{oci, amd64}})
				if !errors.Is(err, ErrNoDockerForm) || !errors.Is(inList, ErrNoDockerForm) {
					t.Errorf("the errors are %v, in a list %v", err, inList)
				}
				return
			}
			if err != nil || docker.Digest != digest.FromBytes(docker.Payload) ||
				docker.MediaType != "application/vnd.docker.distribution.manifest.v2+json" {
				t.Errorf("it says it is %s, a %s: %v", docker.Digest, docker.MediaType, err)
			}
			a, b := parse[v1.Manifest](t, oci), parse[v1.Manifest](t, docker.Payload)
			if b.MediaType != docker.MediaType ||
				b.Config.MediaType != "application/vnd.docker.container.image.v1+json" ||
				b.Config.Digest != a.Config.Digest ||
				b.Config.Size != 2 ||
				b.Annotations != nil {
				t.Errorf("manifest %+v", b)
			}
			for i := range a.Layers {
				if b.Layers[i].MediaType != test.want || b.Layers[i].Digest != a.Layers[i].Digest ||
					b.Layers[i].Size != a.Layers[i].Size {
					t.Errorf("layer %d is %+v, want the blob of %+v as a %s", i, b.Layers[i], a.Layers[i], test.want)
				}
			}
		})
	}
}

func TestIndexOfOne(t *testing.T) {
	oci := manifestOf(t, compress.Zstd, "{}")
	made, err := IndexOfOne(Child{oci, armv7})
	if err != nil || made.MediaType != v1.MediaTypeImageIndex || made.Digest != digest.FromBytes(made.Payload) {
		t.Fatalf("it is %s, a %s: %v", made.Digest, made.MediaType, err)
	}
	index := parse[v1.Index](t, made.Payload)
	want := []v1.Descriptor{{
		MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(oci), Size: int64(len(oci)), Platform: &armv7,
	}}
	if index.MediaType != made.MediaType || index.SchemaVersion != 2 ||
		!reflect.DeepEqual(index.Manifests, want) || index.Annotations["a"] != "b" {
		t.Errorf("the index is %s", made.Payload)
	}
}

func TestDockerList(t *testing.T) {
	one, two := manifestOf(t, compress.Gzip, "{}"), manifestOf(t, compress.Gzip, "{ }")
	made, forms, err := DockerList([]Child{{one, amd64}, {two, armv7}})
	if err != nil || len(forms) != 2 || made.MediaType != MediaTypeDockerList ||
		made.Digest != digest.FromBytes(made.Payload) {
		t.Fatalf("it is %s, a %s of %d: %v", made.Digest, made.MediaType, len(forms), err)
	}
	list := parse[v1.Index](t, made.Payload)
	if list.MediaType != made.MediaType || list.SchemaVersion != 2 || len(list.Manifests) != 2 {
		t.Fatalf("the list is %s", made.Payload)
	}
	for i, platform := range []v1.Platform{amd64, armv7} {
		form, err := DockerForm([][]byte{one, two}[i])
		if err != nil || form.Digest != forms[i].Digest {
			t.Errorf("the list's form %d is %s, by itself it is %s: %v", i, forms[i].Digest, form.Digest, err)
		}
		want := v1.Descriptor{
			MediaType: form.MediaType, Digest: form.Digest, Size: int64(len(form.Payload)), Platform: &platform,
		}
		if !reflect.DeepEqual(list.Manifests[i], want) {
			t.Errorf("the list has %+v, want %+v", list.Manifests[i], want)
		}
	}
}

// What is pinned by its digest today can be made again tomorrow. These digests never change.
func TestFormsStay(t *testing.T) {
	oci := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,` +
		`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},` +
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":5,` +
		`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",` +
		`"annotations":{"c":"d"}}],"annotations":{"a":"b"}}`)
	docker, err := DockerForm(oci)
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := DockerList([]Child{{oci, armv7}})
	if err != nil {
		t.Fatal(err)
	}
	index, err := IndexOfOne(Child{oci, armv7})
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[digest.Digest]Manifest{
		"sha256:f277a725031de78aca87dfc487863f228e22f2097d7ccd57f574721a63281710": docker,
		"sha256:156ede7b0fa740d2b09a92013f3a169e0a0721d4d1b1e126b02624bcc557946d": list,
		"sha256:a4794c007872801720768e6d5d998f158ecf3bbf09ddaa403e8ec6e608a72a46": index,
	} {
		if got.Digest != want {
			t.Errorf("the %s is now %s, was %s:\n%s", got.MediaType, got.Digest, want, got.Payload)
		}
	}
}

func TestFormsOfOthers(t *testing.T) {
	for name, payload := range map[string]string{
		"an index": `{"mediaType": "application/vnd.oci.image.index.v1+json"}`, "nothing": "", "no JSON": "no JSON",
	} {
		_, docker := DockerForm([]byte(payload))
		_, index := IndexOfOne(Child{[]byte(payload), amd64})
		_, _, list := DockerList([]Child{{[]byte(payload), amd64}})
		if docker == nil || index == nil || list == nil {
			t.Errorf("%s has forms: %v, %v, %v", name, docker, index, list)
		}
	}
	if _, err := PlatformOf([]byte("no JSON")); err == nil {
		t.Error("no error for what is no config")
	}
}
