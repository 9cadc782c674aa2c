package middleware

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/faulty"
)

// A sweptClient pulls and pushes, and knows what it was told.
type sweptClient struct {
	t        *testing.T
	registry *swept
	faulty   faulty.Kind // None: nothing may fail
	as       string      // who is asked, for messages
	// told are the digests that REPOSITORY:TAG has, and REPOSITORY@DIGEST of what is there besides.
	told map[string]digest.Digest
	// whole are the blobs, as REPOSITORY@DIGEST, that a process has served.
	whole map[string]bool
}

// ask has another process asked, or the same without a fault.
func (c *sweptClient) ask(registry *swept, as string) {
	c.registry, c.as, c.faulty, c.whole = registry, as, faulty.None, make(map[string]bool)
}

func (c *sweptClient) errorf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf(c.as+": "+format, args...)
}

// request makes one, and returns the body of an answer of a status that is wanted; not ok: the fault
// has failed it.
func (c *sweptClient) request(method, url, mediaType string, body []byte, want int) (answer []byte, ok bool) {
	c.t.Helper()
	response, heard := c.registry.do(context.WithoutCancel(c.t.Context()), method, url, mediaType, body)
	answer = response.Body.Bytes()
	switch {
	case !heard:
		return nil, false
	case response.Code == want:
		if location := response.Header().Get("Location"); location != "" {
			answer = []byte(location)
		}
		return answer, true
	case c.faulty == faulty.None, response.Code < http.StatusInternalServerError && c.faulty != faulty.NotFound:
		c.errorf("%s %s: %d %s", method, url, response.Code, answer)
	}
	return nil, false
}

// pull gets the image of a tag or a digest, and all of its blobs. Want is the digest; empty: any.
func (c *sweptClient) pull(repository, reference, accept string, want digest.Digest) {
	c.t.Helper()
	base := "/v2/" + repository
	payload, ok := c.request(http.MethodGet, base+"/manifests/"+reference, accept, nil, http.StatusOK)
	if !ok {
		return
	}
	got := digest.FromBytes(payload)
	if want != "" && got != want && c.faulty == faulty.None { // with a fault it may be an older one
		c.errorf("%s:%s is %s, want %s", repository, reference, got, want)
	}
	if strings.Contains(reference, ":") || accept != v1.MediaTypeImageManifest {
		c.told[repository+"@"+got.String()] = got
	} else {
		c.told[repository+":"+reference] = got
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(payload, &manifest); err != nil {
		c.errorf("%s:%s can't be parsed: %v", repository, reference, err)
	}
	for _, part := range append(manifest.Layers, manifest.Config) {
		if c.whole[repository+"@"+part.Digest.String()] {
			continue
		}
		blob, ok := c.request(http.MethodGet, base+"/blobs/"+part.Digest.String(), "*/*", nil, http.StatusOK)
		if !ok {
			continue
		}
		if digest.FromBytes(blob) == part.Digest {
			c.whole[repository+"@"+part.Digest.String()] = true
		} else if c.faulty == faulty.None {
			c.errorf("blob %s of %s is another", part.Digest, repository)
		}
	}
}

// pullBuilt pulls a tag that is to have what is built at a revision.
func (c *sweptClient) pullBuilt(repository, tag, revision string) {
	c.t.Helper()
	c.pull(repository, tag, v1.MediaTypeImageManifest, sweptImage(repository, revision).Manifest.Digest)
}

// push pushes the image of a note under a tag. The note is its only layer.
func (c *sweptClient) push(repository, tag, note string) {
	c.t.Helper()
	pushed := manifestOf(note)
	upload, ok := c.request(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", []byte{}, http.StatusAccepted)
	if !ok {
		return
	}
	commit := string(upload) + "&digest=" + digest.FromBytes(pushed.Config).String()
	if _, ok := c.request(http.MethodPut, commit, "application/octet-stream", pushed.Config, http.StatusCreated); !ok {
		return
	}
	manifest := "/v2/" + repository + "/manifests/" + tag
	if _, ok := c.request(http.MethodPut, manifest, pushed.MediaType, pushed.Payload, http.StatusCreated); ok {
		c.told[repository+":"+tag] = pushed.Digest
	}
}

// check checks that all that the client was told is there, and that nothing of it is built again.
func (c *sweptClient) check() {
	c.t.Helper()
	built := len(c.registry.builder.built)
	for what, dgst := range maps.Clone(c.told) {
		repository, reference, _ := strings.Cut(what, "@")
		if reference == "" {
			repository, reference, _ = strings.Cut(what, ":")
		}
		if revision := c.registry.builder.revision; reference == "latest" &&
			dgst != sweptImage(repository, revision).Manifest.Digest && c.registry.isBuilt(c.t, repository, reference) {
			continue // there is a newer one to build
		}
		c.pull(repository, reference, v1.MediaTypeImageManifest+","+dockerType, dgst)
		c.pull(repository, dgst.String(), v1.MediaTypeImageManifest+","+dockerType, dgst)
	}
	if again := c.registry.builder.built[built:]; len(again) > 0 {
		c.errorf("%v was built again", again)
	}
}

// isBuilt tells whether what a tag has was built.
func (s *swept) isBuilt(t *testing.T, repository, tag string) bool {
	t.Helper()
	p := pulling{Service: s.Service}
	image, err := s.store.LookUp(t.Context(), p.repository(t, repository), tag)
	if err != nil {
		t.Fatal(err)
	}
	return image.Digest != "" && !image.Pushed
}

// checkRecords checks what is recorded of the layers of all images that there may be, and that no link
// is pending.
func (c *sweptClient) checkRecords() {
	c.t.Helper()
	ctx := c.t.Context()
	for _, image := range []string{"git", "htop", "git/htop"} {
		for _, revision := range []string{"r1", "r2"} {
			for _, layer := range sweptLayers(image, revision) {
				record, ok, err := c.registry.builder.layers.Get(ctx, sweptKey(layer))
				if err != nil || ok && record.Digest != digest.FromBytes(layer) {
					c.errorf("the record of a layer is %+v, %v", record, err)
				}
			}
		}
	}
	pending, err := c.registry.store.State().List(ctx, "links")
	if err != nil || len(pending) > 0 {
		c.errorf("links are pending: %q, %v", pending, err)
	}
}

// tags lists those of a repository.
func (c *sweptClient) tags(repository string) (tags []string) {
	c.t.Helper()
	answer, _ := c.request(http.MethodGet, "/v2/"+repository+"/tags/list", "", nil, http.StatusOK)
	var list struct{ Tags []string }
	if err := json.Unmarshal(answer, &list); err != nil {
		c.errorf("the tags of %s can't be parsed: %v", repository, err)
	}
	return list.Tags
}
