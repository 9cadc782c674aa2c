package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// What clients ask for: packages of the demo set that are small together.
var (
	packages = strings.Fields("hello tree jq htop git bash less file figlet cowsay curl bc dash diffutils findutils fd")
	popular  = []string{"hello", "tree/jq", "shell/git", "git/htop", "bash/curl"}
)

// A load is what clients do to a registry. It is safe for concurrent use.
type load struct {
	url  string
	http *http.Client

	requests, refused, failed, broken atomic.Int64
}

func newLoad(addr string) *load {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	return &load{url: "http://" + addr, http: &http.Client{Transport: transport}}
}

const countsHeader = "requests   4xx   5xx broken"

func (l *load) counts() string {
	return fmt.Sprintf("%8d %5d %5d %6d", l.requests.Load(), l.refused.Load(), l.failed.Load(), l.broken.Load())
}

// run has clients do this and that for so long.
func (l *load) run(ctx context.Context, length time.Duration, clients int, seed uint64) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			c := &client{load: l, random: rand.New(rand.NewPCG(seed, uint64(n))), number: n}
			for ctx.Err() == nil {
				c.something(ctx)
			}
		})
	}
	all.Wait()
}

// A client is one after the other, each from an address of its own.
type client struct {
	*load
	random *rand.Rand
	number int
	pushed []string // manifests, as REPOSITORY/manifests/DIGEST
}

func (c *client) something(ctx context.Context) {
	name := popular[c.random.IntN(len(popular))]
	switch n := c.random.IntN(100); {
	case n < 55:
		c.pull(ctx, name, "latest")
	case n < 65:
		c.pull(ctx, c.combination(), "latest")
	case n < 70: // another spelling
		parts := strings.Split(name, "/")
		c.random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		c.pull(ctx, strings.Join(append(parts, parts[0]), "/"), "latest")
	case n < 75:
		c.do(ctx, http.MethodGet, fmt.Sprintf("nobody-has-%d/manifests/latest", c.random.IntN(1_000_000)), "", nil)
	case n < 80:
		c.push(ctx)
	case n < 84 && len(c.pushed) > 0:
		c.do(ctx, http.MethodDelete, c.pushed[0], "", nil)
		c.pushed = c.pushed[1:]
	case n < 90:
		c.do(ctx, http.MethodGet, name+"/tags/list", "", nil)
	case n < 95: // somebody who leaves
		soon, cancel := context.WithTimeout(ctx, time.Duration(c.random.IntN(100))*time.Millisecond)
		defer cancel()
		c.pull(soon, c.combination(), "latest")
	default:
		c.readSlowly(ctx, name)
	}
}

func (c *client) combination() string {
	parts := make([]string, 2+c.random.IntN(3))
	for i := range parts {
		parts[i] = packages[c.random.IntN(len(packages))]
	}
	return strings.Join(parts, "/")
}

// open makes a request and counts how it ends. The answer is nil if there is none.
func (c *client) open(ctx context.Context, method, path, mediaType string, body []byte) *http.Response {
	request, err := http.NewRequestWithContext(ctx, method, c.url+"/v2/"+path, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	request.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.%d.%d", c.number, c.random.IntN(250)))
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	request.Header.Set("Content-Type", mediaType)
	c.requests.Add(1)
	response, err := c.http.Do(request)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			c.broken.Add(1)
		}
		return nil
	case response.StatusCode >= http.StatusInternalServerError:
		c.failed.Add(1)
	case response.StatusCode >= http.StatusBadRequest:
		c.refused.Add(1)
	}
	return response
}

// do makes a request, and returns the body of an answer that is none of a failure.
func (c *client) do(ctx context.Context, method, path, mediaType string, body []byte) []byte {
	response := c.open(ctx, method, path, mediaType, body)
	if response == nil {
		return nil
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil && ctx.Err() == nil {
		c.broken.Add(1)
	}
	if err != nil || response.StatusCode >= http.StatusBadRequest {
		return nil
	}
	return content
}

// pull gets an image with its blobs, and then its manifest once more by its digest.
func (c *client) pull(ctx context.Context, name, tag string) (blobs []string) {
	c.do(ctx, http.MethodHead, name+"/manifests/"+tag, "", nil)
	payload := c.do(ctx, http.MethodGet, name+"/manifests/"+tag, "", nil)
	var manifest v1.Manifest
	if payload == nil || json.Unmarshal(payload, &manifest) != nil {
		return nil
	}
	c.do(ctx, http.MethodGet, name+"/manifests/"+digest.FromBytes(payload).String(), "", nil)
	for _, part := range append(manifest.Layers, manifest.Config) {
		blobs = append(blobs, name+"/blobs/"+part.Digest.String())
		c.do(ctx, http.MethodGet, blobs[len(blobs)-1], "", nil)
	}
	return blobs
}

// readSlowly reads a blob, a little at a time, and leaves.
func (c *client) readSlowly(ctx context.Context, name string) {
	blobs := c.pull(ctx, name, "latest")
	if len(blobs) == 0 {
		return
	}
	response := c.open(ctx, http.MethodGet, blobs[c.random.IntN(len(blobs))], "", nil)
	if response == nil {
		return
	}
	defer response.Body.Close()
	for range 50 {
		if _, err := io.CopyN(io.Discard, response.Body, 1000); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// push pushes an image of one small layer.
func (c *client) push(ctx context.Context) {
	name := fmt.Sprintf("pushed/app%d", c.number)
	blob := func(content []byte) v1.Descriptor {
		dgst := digest.FromBytes(content)
		response := c.open(ctx, http.MethodPost, name+"/blobs/uploads/", "application/octet-stream", nil)
		if response != nil {
			response.Body.Close()
			if location := response.Header.Get("Location"); location != "" {
				path := location[strings.Index(location, "/v2/")+len("/v2/"):] + "&digest=" + dgst.String()
				c.do(ctx, http.MethodPut, path, "application/octet-stream", content)
			}
		}
		return v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: dgst, Size: int64(len(content))}
	}
	manifest := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	manifest.Layers = []v1.Descriptor{blob(fmt.Appendf(nil, "layer %d", c.random.Int()))}
	manifest.Config = blob([]byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}`))
	manifest.Config.MediaType = v1.MediaTypeImageConfig
	payload, err := json.Marshal(manifest)
	if err != nil {
		panic(err)
	}
	tag := fmt.Sprint(name, "/manifests/v", c.random.IntN(20))
	if c.do(ctx, http.MethodPut, tag, manifest.MediaType, payload) != nil {
		c.pushed = append(c.pushed, name+"/manifests/"+digest.FromBytes(payload).String())
	}
}
