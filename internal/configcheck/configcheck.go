// Package configcheck finds what is wrong with the registry's own part of a configuration: all but
// the stanza of the middleware. The registry itself ignores keys that it does not know, and finds
// out about most values when it listens, or when a client comes.
package configcheck

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/sirupsen/logrus"
)

// Values returns a fault for each value of a configuration with which the registry would not start,
// or would start and not do what was meant. Each begins with its key. Files are opened, nothing is
// listened on, and nothing is written.
func Values(config *configuration.Configuration) []error {
	var f faults
	f.http(config.HTTP)
	f.tls(config.HTTP.TLS)
	f.storage(config.Storage)
	f.auth(config.Auth)
	f.log(config.Log)
	f.redis(config)
	f.notifications(config.Notifications)
	f.health(config.Health)
	f.middleware(config.Middleware)
	if config.Proxy.RemoteURL != "" {
		f.url("proxy.remoteurl", config.Proxy.RemoteURL, "https", "http")
	}
	if len(f) == 0 {
		if err := tryOut(config); err != nil {
			f.add("%w", err)
		}
	}
	return f
}

type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// tryOut makes the registry's application, as serving would, without the middleware and without
// what it sends and writes by itself.
func tryOut(config *configuration.Configuration) (err error) {
	alone := *config
	others := slices.DeleteFunc(slices.Clone(config.Middleware["storage"]), func(stanza configuration.Middleware) bool {
		return stanza.Name == "nix"
	})
	alone.Middleware = map[string][]configuration.Middleware{"storage": others}
	alone.Notifications, alone.Proxy = configuration.Notifications{}, configuration.Proxy{}
	if config.Auth.Type() != "token" {
		alone.Auth = nil // a file of passwords that is not there would be made
	}
	if alone.HTTP.Secret == "" {
		alone.HTTP.Secret = "nobody uploads anything"
	}
	alone.Storage = maps.Clone(config.Storage)
	alone.Storage["maintenance"] = configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}}
	alone.HTTP.Debug.Prometheus.Enabled = false // its metrics are registered once in a process
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := logrus.StandardLogger().Out
	logrus.SetOutput(io.Discard)
	defer logrus.SetOutput(out)
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("the registry does not start: %v", fault)
		}
	}()
	app := handlers.NewApp(ctx, &alone)
	return app.Shutdown()
}
