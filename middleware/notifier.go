package middleware

import (
	"context"
	"fmt"
	"net"
	"net/http"
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

// A notifier tells the endpoints of the section notifications what is stored without a request for
// it. For what requests store the registry does that itself, with endpoints that it keeps to itself.
// These are others, of the same configuration.
type notifier struct {
	endpoints []*notifications.Endpoint
	urls      *v2.URLBuilder
	source    notifications.SourceRecord
	layers    bool // events of manifests name what they refer to
}

// newNotifier reads the section notifications. URLs in events begin with http.host. Without it they
// are paths, as no request says what the registry is called.
func newNotifier(ctx context.Context, config *configuration.Configuration) (notifier, error) {
	root, err := url.Parse(config.HTTP.Host)
	if err != nil {
		return notifier{}, fmt.Errorf("http.host: %w", err)
	}
	n := notifier{
		urls:   v2.NewURLBuilder(root, config.HTTP.Host == ""),
		source: notifications.SourceRecord{Addr: config.HTTP.Addr},
		layers: config.Notifications.EventConfig.IncludeReferences,
	}
	if hostname, err := os.Hostname(); err == nil {
		n.source.Addr = hostname
		if _, port, err := net.SplitHostPort(config.HTTP.Addr); err == nil {
			n.source.Addr = net.JoinHostPort(hostname, port)
		}
	}
	n.source.InstanceID, _ = ctx.Value("instance.id").(string)
	for _, e := range config.Notifications.Endpoints {
		if e.Disabled {
			continue
		}
		n.endpoints = append(n.endpoints, notifications.NewEndpoint(e.Name, e.URL, notifications.EndpointConfig{
			Timeout:           e.Timeout,
			Threshold:         e.Threshold,
			Backoff:           e.Backoff,
			Headers:           e.Headers,
			IgnoredMediaTypes: e.IgnoredMediaTypes,
			Ignore:            e.Ignore,
		}))
	}
	return n, nil
}

// wrap returns a repository that notifies the endpoints of what is written through it. Events name
// the actor and the request that ctx has, if any.
func (n notifier) wrap(ctx context.Context, repo distribution.Repository) distribution.Repository {
	if len(n.endpoints) == 0 {
		return repo
	}
	var actor notifications.ActorRecord
	var request notifications.RequestRecord
	actor.Name, _ = ctx.Value("auth.user.name").(string)
	if asked, ok := ctx.Value("http.request").(*http.Request); ok {
		id, _ := ctx.Value("http.request.id").(string)
		request = notifications.NewRequestRecord(id, asked)
	}
	for _, endpoint := range n.endpoints {
		bridge := notifications.NewBridge(n.urls, n.source, actor, request, endpoint, n.layers)
		repo, _ = notifications.Listen(repo, nil, bridge)
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
