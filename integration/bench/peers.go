package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A peer is a registry that somebody else has started. It holds what it is sent.
type peer struct{ name, url string }

// parsePeers reads NAME=URL,… and may be given nothing.
func parsePeers(list string) ([]peer, error) {
	if list == "" {
		return nil, nil
	}
	var all []peer
	for _, item := range strings.Split(list, ",") {
		name, address, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("peer %q: want NAME=URL", item)
		}
		parsed, err := url.Parse(address)
		if err != nil {
			return nil, fmt.Errorf("peer %s: %w", name, err)
		}
		if (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
			return nil, fmt.Errorf("peer %s: want a URL with http or https and a host, not %q", name, address)
		}
		if slices.ContainsFunc(all, func(p peer) bool { return p.name == name }) {
			return nil, fmt.Errorf("there are two peers %s", name)
		}
		all = append(all, peer{name, strings.TrimSuffix(address, "/")})
	}
	return all, nil
}

// copyImage pushes name:latest to another registry, there as latest and as its revision. Blobs that
// the other one has are not sent again.
func (s *server) copyImage(ctx context.Context, to *server, name string) error {
	repository := "/v2/" + name
	status, manifest, err := s.get(ctx, repository+"/manifests/latest")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("pulling %s from %s: status %d, %s", name, s.url, status, manifest)
	}
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return err
	}
	for _, blob := range append(m.Layers, m.Config) {
		if err := s.copyBlob(ctx, to, repository, blob); err != nil {
			return fmt.Errorf("copying blob %s: %w", blob.Digest, err)
		}
	}
	for _, tag := range []string{"latest", m.Annotations[v1.AnnotationRevision]} {
		put, err := http.NewRequestWithContext(
			ctx, http.MethodPut, to.url+repository+"/manifests/"+tag, strings.NewReader(string(manifest)),
		)
		if err != nil {
			return err
		}
		put.Header.Set("Content-Type", cmp.Or(m.MediaType, v1.MediaTypeImageManifest))
		if _, err := to.send(put, http.StatusCreated); err != nil {
			return err
		}
	}
	return nil
}

// copyBlob sends a blob in one piece.
func (s *server) copyBlob(ctx context.Context, to *server, repository string, blob v1.Descriptor) error {
	path := repository + "/blobs/" + blob.Digest.String()
	head, err := http.NewRequestWithContext(ctx, http.MethodHead, to.url+path, nil)
	if err != nil {
		return err
	}
	if _, err := to.send(head, http.StatusOK); err == nil { // an error is met again by the next request
		return nil
	}
	begin, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url+repository+"/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	begun, err := to.send(begin, http.StatusAccepted)
	if err != nil {
		return err
	}
	upload, err := begin.URL.Parse(begun.Get("Location"))
	if err != nil {
		return err
	}
	query := upload.Query()
	query.Set("digest", blob.Digest.String())
	upload.RawQuery = query.Encode()

	get, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return err
	}
	content, err := s.client.Do(get)
	if err != nil {
		return err
	}
	defer content.Body.Close()
	if content.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: status %d", get.URL, content.StatusCode)
	}
	put, err := http.NewRequestWithContext(ctx, http.MethodPut, upload.String(), content.Body)
	if err != nil {
		return err
	}
	put.ContentLength = blob.Size
	put.Header.Set("Content-Type", "application/octet-stream")
	_, err = to.send(put, http.StatusCreated)
	return err
}

// send makes a request whose answer is short, and returns its header. Another status is an error.
func (s *server) send(request *http.Request, want int) (http.Header, error) {
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("%s %s: status %d, %s", request.Method, request.URL, response.StatusCode, body)
	}
	return response.Header, err
}
