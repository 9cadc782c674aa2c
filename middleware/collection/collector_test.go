package collection_test

import (
	"slices"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/middleware/collection"
	"github.com/nixery-registry/nixery-registry/middleware/paths"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

// must ends a test at an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is collected and what stays, of everything that a registry may have.
func TestCollect(t *testing.T) {
	built := func(p *process, repo, tag string, img image.Image, layers ...string) {
		t.Helper()
		must(t, p.build(repo, tag, img, layers...))
	}
	old, pair := imageOf("old", "shared", "own"), imageOf("pair", "shared")
	other := imageOf("other", "shared", "own")
	child := imageOf("child", "own")
	for _, test := range []struct {
		name string
		do   func(p *process)
		gone []string // blobs by content
		kept []string
	}{
		{
			name: "an image that has no tag any more",
			do: func(p *process) {
				built(p, "a", "r1", old, "shared", "own")
				built(p, "b", "r1", pair, "shared")
				p.untag("a", "r1")
			},
			gone: []string{"own", string(old.Manifest.Config), string(old.Manifest.Payload)},
			kept: []string{"shared", string(pair.Manifest.Payload)},
		},
		{
			name: "one that has another tag",
			do: func(p *process) {
				built(p, "a", "r1", old, "shared", "own")
				must(t, p.put("a", "mine", old.Manifest))
				p.untag("a", "r1")
			},
			kept: []string{"own", "shared", string(old.Manifest.Payload)},
		},
		{
			name: "one that was pushed and has no tag",
			do: func(p *process) {
				must(t, p.push("a", "", old, "shared", "own"))
			},
			kept: []string{"own", "shared", string(old.Manifest.Payload)},
		},
		{
			name: "what a push has uploaded, and no manifest yet",
			do: func(p *process) {
				built(p, "a", "r1", old, "shared", "own")
				p.untag("a", "r1")
				must(t, p.upload("new", "own"))
			},
			gone: []string{"shared", string(old.Manifest.Config)},
			kept: []string{"own"},
		},
		{
			name: "the layers of an image in another repository",
			do: func(p *process) {
				built(p, "a", "r1", old, "shared", "own")
				must(t, p.push("c", "mine", other, "shared", "own"))
				p.untag("a", "r1")
			},
			gone: []string{string(old.Manifest.Payload)},
			kept: []string{"own", "shared", string(other.Manifest.Payload)},
		},
		{
			name: "a child of an index that was pushed",
			do: func(p *process) {
				built(p, "a", "r1", child, "own")
				must(t, p.put("a", "mine", indexOf(child.Manifest)))
				p.untag("a", "r1")
			},
			kept: []string{"own", string(child.Manifest.Payload), string(child.Manifest.Config)},
		},
		{
			name: "an index that was built, with its children",
			do: func(p *process) {
				img := imageOf("", "own")
				img.Manifest, img.Children = indexOf(child.Manifest), []image.Manifest{child.Manifest}
				built(p, "a", "r1", img, "own")
				p.untag("a", "r1")
			},
			gone: []string{"own", string(child.Manifest.Payload), string(indexOf(child.Manifest).Payload)},
		},
		{
			name: "what a signature belongs to",
			do: func(p *process) {
				built(p, "a", "r1", old, "shared", "own")
				must(t, p.push("a", "sha256-"+old.Manifest.Digest.Encoded()+".sig", pair, "shared"))
				p.untag("a", "r1")
			},
			kept: []string{"own", "shared", string(old.Manifest.Payload)},
		},
		{
			name: "what a referrer's subject is",
			do: func(p *process) {
				built(p, "a", "r1", old, "shared", "own")
				referrer := imageOf("referrer", "shared")
				payload := string(referrer.Manifest.Payload)
				payload = payload[:len(payload)-1] + `,"subject":{"mediaType":"` + old.Manifest.MediaType +
					`","digest":"` + old.Manifest.Digest.String() + `","size":1}}`
				referrer.Manifest.Payload = []byte(payload)
				must(t, p.push("a", "", referrer, "shared"))
				p.untag("a", "r1")
			},
			kept: []string{"own", "shared", string(old.Manifest.Payload)},
		},
		{
			name: "a layer that is to be linked",
			do: func(p *process) {
				built(p, "a", "r1", old, "shared", "own")
				p.untag("a", "r1")
				must(t, p.w.files.PutContent(t.Context(), paths.State+"links/x",
					[]byte(`{"repository":"z","layers":[{"digest":"`+digest.FromString("own").String()+`"}]}`)))
			},
			gone: []string{"shared"},
			kept: []string{"own"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			p := w.process(t, true)
			test.do(p)
			w.files.age(t)
			look, err := p.collector.Look(t.Context())
			must(t, err)
			report, err := p.collector.Collect(t.Context())
			must(t, err)
			if look.Blobs != report.Blobs || look.Bytes != report.Bytes || look.Manifests() != report.Manifests() {
				t.Errorf("it would delete %+v, and deleted %+v", look, report)
			}
			bytes := int64(0)
			for _, blob := range test.gone {
				if w.has(digest.FromString(blob)) {
					t.Errorf("%q is there", blob)
				}
				bytes += int64(len(blob))
			}
			for _, blob := range test.kept {
				if !w.has(digest.FromString(blob)) {
					t.Errorf("%q is gone", blob)
				}
			}
			if len(test.gone) == 0 != (report.Blobs == 0) || report.Bytes < bytes {
				t.Errorf("%d bytes are gone, and the report is %+v", bytes, report)
			}
			must(t, w.check(false))
			again, err := p.collector.Collect(t.Context())
			if must(t, err); again.Blobs > 0 || len(again.Repositories) > 0 {
				t.Errorf("a second time, it deleted %+v", again)
			}
		})
	}
}

// Nothing remains of an image but what upstream keeps of its tag's past: no link, no entry.
func TestCollectLinks(t *testing.T) {
	w := newWorld()
	p := w.process(t, true)
	first, second := imageOf("first", "shared", "own"), imageOf("second", "shared")
	must(t, p.build("a", "latest", first, "shared", "own"))
	must(t, p.build("a", "latest", second, "shared"))
	w.files.age(t)
	report, err := p.collector.Collect(t.Context())
	must(t, err)
	if report.Manifests() != 1 || report.Repositories[0].Manifests[0] != first.Manifest.Digest {
		t.Fatalf("deleted: %+v", report)
	}
	var left []string
	err = w.files.Walk(t.Context(), "/docker", func(info driver.FileInfo) error {
		for _, dgst := range []digest.Digest{first.Manifest.Digest, digest.FromString("own")} {
			if kind, of := paths.Parse(info.Path()); kind != paths.Other && of == dgst {
				left = append(left, info.Path())
			}
		}
		return nil
	})
	if must(t, err); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if runs, err := w.files.List(t.Context(), collection.RunsDir); err != nil || len(runs) != 1 {
		t.Errorf("runs %q: %v", runs, err)
	}
	must(t, w.check(false))
}

// What was built or linked within a day stays.
func TestCollectYoung(t *testing.T) {
	w := newWorld()
	p := w.process(t, true)
	img := imageOf("old", "own")
	must(t, p.build("a", "r1", img, "own"))
	p.untag("a", "r1")
	report, err := p.collector.Collect(t.Context())
	if must(t, err); report.Blobs > 0 {
		t.Errorf("a new image was collected: %+v", report)
	}
	w.files.age(t)
	must(t, p.upload("a", "own")) // for a push to the same repository, which goes on
	report, err = p.collector.Collect(t.Context())
	must(t, err)
	if !w.has(digest.FromString("own")) || w.has(img.Manifest.Digest) {
		t.Errorf("deleted: %+v", report)
	}
	must(t, w.check(false))
}

// A run that has too much to do leaves the rest to the next.
func TestCollectRest(t *testing.T) {
	w := newWorld()
	p := w.process(t, true)
	names := []string{"a", "b", "c", "d", "e"}
	for _, name := range names {
		must(t, p.build(name, "r1", imageOf(name, "layer of "+name), "layer of "+name))
		p.untag(name, "r1")
	}
	w.files.age(t)
	p.collector.SetMax(4)
	var deleted []string
	for range names {
		report, err := p.collector.Collect(t.Context())
		must(t, err)
		for _, repository := range report.Repositories {
			deleted = append(deleted, repository.Name)
		}
		if !report.Rest {
			break
		}
		if len(report.Repositories) != 2 {
			t.Errorf("a run with place for four candidates deleted %+v", report)
		}
	}
	if slices.Sort(deleted); !slices.Equal(deleted, names) {
		t.Errorf("deleted: %q", deleted)
	}
}
