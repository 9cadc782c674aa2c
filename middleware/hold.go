package middleware

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

const (
	// redirectsParameter counts, in the query, how often a client was redirected to the same URL.
	// Each redirect ends a hold.
	redirectsParameter = "hold"
	// maxRedirects is one less than the redirects that Go's HTTP client follows, and with it most
	// container tools.
	maxRedirects = 9
)

// codeHold sends a client to the same URL again. Container tools follow redirects at once, and give
// up on an answer that does not begin within 30 s.
var codeHold = errcode.Register("nix", errcode.ErrorDescriptor{
	Value:   "BUILDING",
	Message: "the image is being built",
	Description: "Returned with a Location while an image is being built, " +
		"so that no client waits for long without a header.",
	HTTPStatusCode: http.StatusTemporaryRedirect,
})

// redirectsOf reads how often a client was redirected: 0 if nobody can tell.
func redirectsOf(asked *url.URL) int {
	if asked.RawQuery == "" { // as nearly always
		return 0
	}
	redirects, err := strconv.Atoi(asked.Query().Get(redirectsParameter))
	if err != nil || redirects < 0 {
		return 0
	}
	return redirects
}

// redirect answers a client that shall ask again.
func (s *Service) redirect(name reference.Named, p pull) {
	p.response.Header().Set("Location", s.location(name, p))
	p.response.Header().Set("Cache-Control", "no-store")
	if err := errcode.ServeJSON(p.response, codeHold); err != nil {
		logrus.WithError(err).Debug("nix: a redirect was not written whole")
	}
}

// location is the URL of a pull with the next count of redirects. It is made as upstream makes those
// of its own answers, from http.host, http.relativeurls or the request. Caching proxies that follow
// a redirect themselves need the host in it, and java.net.URL resolves a bare query to another path.
// All other parameters stay, because a mirror may need them (ns).
//
// Where the request's headers make no plain URL, or say where it was forwarded from and it is of no
// trusted proxy, the location is the path of the request.
func (s *Service) location(name reference.Named, p pull) string {
	query := "?" + nextQuery(p.request.URL.RawQuery, p.redirects+1)
	here := p.request.URL.EscapedPath() + query
	asked, err := referenceTo(name, p.reference)
	if err != nil {
		return here
	}
	urls := v2.NewURLBuilderFromRequest(p.request, s.config.HTTP.RelativeURLs)
	relative := s.config.HTTP.RelativeURLs
	if host, err := url.Parse(s.config.HTTP.Host); err == nil && host.Scheme != "" && host.Host != "" {
		urls, relative = v2.NewURLBuilder(host, false), false
	} else if !relative && s.forges(p.request) {
		return here
	}
	location, err := urls.BuildManifestURL(asked)
	if err != nil || !relative && !isPlain(location) {
		return here
	}
	return location + query
}

// referenceTo joins a name and a tag or digest.
func referenceTo(name reference.Named, to string) (reference.Named, error) {
	if dgst, err := digest.Parse(to); err == nil {
		return reference.WithDigest(name, dgst)
	}
	return reference.WithTag(name, to)
}

// forges tells whether a client says that a proxy forwarded its request, and is none.
func (s *Service) forges(request *http.Request) bool {
	peer, err := netip.ParseAddrPort(request.RemoteAddr)
	if err == nil && isIn(peer.Addr().Unmap(), s.proxies) {
		return false
	}
	return slices.ContainsFunc([]string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"}, func(name string) bool {
		return request.Header.Get(name) != ""
	})
}

// plainHost matches names and addresses with or without a port.
var plainHost = regexp.MustCompile(`^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$`)

// isPlain tells whether a text is a URL of http or https with a host and a path. A second // comes
// from a header that is a URL itself.
func isPlain(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil &&
		plainHost.MatchString(u.Host) && strings.Count(text, "//") == 1 && !strings.ContainsAny(text, "?#")
}

// nextQuery replaces the count of redirects in a query, and leaves all else as it was written.
func nextQuery(query string, redirects int) string {
	var kept []string
	for parameter := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(parameter, "=")
		if name, err := url.QueryUnescape(key); parameter != "" && (err != nil || name != redirectsParameter) {
			kept = append(kept, parameter)
		}
	}
	return strings.Join(append(kept, redirectsParameter+"="+strconv.Itoa(redirects)), "&")
}

// redirected stands for the digest of an answer that is written already. No client can name it in
// If-None-Match.
const redirected digest.Digest = "\n"

// redirectedManifests let upstream end a request that is answered already. If it were told of an
// error, it would log one.
type redirectedManifests struct{ distribution.ManifestService }

// Get implements distribution.ManifestService.
func (redirectedManifests) Get(
	context.Context, digest.Digest, ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	return noManifest{}, nil
}

type noManifest struct{}

// References implements distribution.Manifest.
func (noManifest) References() []v1.Descriptor { return nil }

// Payload implements distribution.Manifest.
func (noManifest) Payload() (string, []byte, error) { return "", nil, errHold }
