package middleware

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/notifications"
	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	"github.com/sirupsen/logrus"
)

// announceTime is how long the end waits for the last events to be delivered. An endpoint that is
// down is tried for ever.
const announceTime = 10 * time.Second

// An announcer notifies the registry's endpoints of what is stored while no client asks. For
// requests, the registry does that itself, with endpoints that it keeps to itself; these are others
// of the same configuration.
type announcer struct {
	endpoints []*notifications.Endpoint
	listeners []notifications.Listener
}

// newAnnouncer reads the section notifications. Events name neither an actor nor a request. Their
// URLs begin with http.host, and are paths where that is not set, as no request says what the
// registry is called.
func newAnnouncer(ctx context.Context, config *configuration.Configuration) (announcer, error) {
	var a announcer
	root, err := url.Parse(config.HTTP.Host)
	if err != nil {
		return a, fmt.Errorf("http.host: %w", err)
	}
	urls := v2.NewURLBuilder(root, config.HTTP.Host == "")
	source := notifications.SourceRecord{Addr: config.HTTP.Addr}
	if hostname, err := os.Hostname(); err == nil {
		source.Addr = hostname
		if _, port, err := net.SplitHostPort(config.HTTP.Addr); err == nil {
			source.Addr = net.JoinHostPort(hostname, port)
		}
	}
	source.InstanceID, _ = ctx.Value("instance.id").(string)
	for _, e := range config.Notifications.Endpoints {
		if e.Disabled {
			continue
		}
		endpoint := notifications.NewEndpoint(e.Name, e.URL, notifications.EndpointConfig{
			Timeout: e.Timeout, Threshold: e.Threshold, Backoff: e.Backoff, Headers: e.Headers, IgnoredMediaTypes: e.IgnoredMediaTypes, Ignore: e.Ignore,
		})
		a.endpoints = append(a.endpoints, endpoint)
		a.listeners = append(a.listeners, notifications.NewBridge(
			urls,
			source,
			notifications.ActorRecord{},
			notifications.RequestRecord{},
			endpoint,
			config.Notifications.EventConfig.IncludeReferences,
		))
	}
	return a, nil
}

// wrap makes a repository that announces what is written through it.
func (a announcer) wrap(repo distribution.Repository) distribution.Repository {
	for _, listener := range a.listeners {
		repo, _ = notifications.Listen(repo, nil, listener)
	}
	return repo
}

// close delivers what is left to be announced.
func (a announcer) close() {
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		var all sync.WaitGroup
		for _, endpoint := range a.endpoints {
			all.Go(func() {
				if err := endpoint.Close(); err != nil {
					logrus.WithError(err).Warnf("nix: closing the endpoint %s", endpoint.Name())
				}
			})
		}
		all.Wait()
	}()
	select {
	case <-delivered:
	case <-time.After(announceTime):
		logrus.Warnf("nix: giving up on notifications that were not delivered in %v", announceTime)
	}
}
