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

// notifyTime bounds how long close waits for the last events to be delivered: an endpoint that is
// down is tried for ever.
const notifyTime = 10 * time.Second

// A notifier tells the endpoints of the section notifications what is stored without a request.
// For requests the registry does that itself, with endpoints that it keeps to itself. These are
// others, of the same configuration.
type notifier struct {
	endpoints []*notifications.Endpoint
	listeners []notifications.Listener
}

// newNotifier reads the section notifications. Events name neither an actor nor a request. Their
// URLs begin with http.host. Without it they are paths, as no request says what the registry is
// called.
func newNotifier(ctx context.Context, config *configuration.Configuration) (notifier, error) {
	var n notifier
	root, err := url.Parse(config.HTTP.Host)
	if err != nil {
		return n, fmt.Errorf("http.host: %w", err)
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
			Timeout:           e.Timeout,
			Threshold:         e.Threshold,
			Backoff:           e.Backoff,
			Headers:           e.Headers,
			IgnoredMediaTypes: e.IgnoredMediaTypes,
			Ignore:            e.Ignore,
		})
		n.endpoints = append(n.endpoints, endpoint)
		n.listeners = append(n.listeners, notifications.NewBridge(
			urls,
			source,
			notifications.ActorRecord{},
			notifications.RequestRecord{},
			endpoint,
			config.Notifications.EventConfig.IncludeReferences,
		))
	}
	return n, nil
}

// wrap returns a repository that notifies the endpoints of what is written through it.
func (n notifier) wrap(repo distribution.Repository) distribution.Repository {
	for _, listener := range n.listeners {
		repo, _ = notifications.Listen(repo, nil, listener)
	}
	return repo
}

// close delivers the events that are left.
func (n notifier) close() {
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		var all sync.WaitGroup
		for _, endpoint := range n.endpoints {
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
	case <-time.After(notifyTime):
		logrus.Warnf("nix: giving up on notifications that were not delivered in %v", notifyTime)
	}
}
