package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry"
	"github.com/distribution/distribution/v3/version"
	"github.com/docker/go-metrics"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/nixery-registry/nixery-registry/middleware"
)

func serveCommand() *cobra.Command {
	var check bool
	command := &cobra.Command{
		Use:   "serve [flags] CONFIG",
		Short: "Serve images that were pushed, and images of Nix packages",
		Long: `Serve images that were pushed, and images of Nix packages.

CONFIG is a Distribution configuration file; REGISTRY_CONFIGURATION_PATH names it otherwise. Images are built from
packages where it has a stanza middleware.repository with the name nix: see config.yml.example.`,
		Example:       "  registry serve config.yml\n  docker pull localhost:5000/shell/git/htop",
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(_ *cobra.Command, args []string) error {
			path := os.Getenv("REGISTRY_CONFIGURATION_PATH")
			if len(args) > 0 {
				path = args[0]
			}
			if path == "" {
				return errors.New("registry serve: no configuration: name a file, or set REGISTRY_CONFIGURATION_PATH; see --help")
			}
			config, err := load(path)
			if err != nil || check {
				return inFile(path, err)
			}
			return inFile(path, serve(config))
		},
	}
	command.Flags().BoolVar(&check, "check", false, "read the configuration, report its faults, and do not serve")
	return command
}

// load reads a configuration file and checks what the registry would only find out when it serves.
func load(path string) (*configuration.Configuration, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the path stands before it anyway
	}
	defer file.Close()
	config, err := configuration.Parse(file)
	if err != nil {
		return nil, err
	}
	var faults []error
	for i, stanza := range config.Middleware["repository"] {
		if stanza.Name != "nix" {
			faults = append(faults, fmt.Errorf("middleware.repository[%d].name: there is no repository middleware %q", i, stanza.Name))
		}
	}
	if _, err := middleware.Setup(config); err != nil {
		faults = append(faults, err)
	}
	return config, errors.Join(faults...)
}

// inFile puts the file's name before every line of an error.
func inFile(path string, err error) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return errors.New(path + ": " + strings.Join(lines, "\n"+path+": "))
}

func serve(config *configuration.Configuration) error {
	if err := quietTracing(); err != nil {
		return err
	}
	ctx := context.WithValue(context.Background(), "version", version.Version()) //nolint:revive,staticcheck // the key that the registry logs by
	served, err := newRegistry(ctx, config)
	if err != nil {
		return err
	}
	serveDebug(config)
	return served.ListenAndServe()
}

// quietTracing keeps the registry from sending traces to this machine's port 4318 when nobody asked for that.
func quietTracing() error {
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "OTEL_") {
			return nil
		}
	}
	return os.Setenv("OTEL_TRACES_EXPORTER", "none")
}

// newRegistry returns as an error what upstream says about a configuration in a panic.
func newRegistry(ctx context.Context, config *configuration.Configuration) (r *registry.Registry, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	return registry.NewRegistry(ctx, config)
}

// serveDebug does what upstream's own serve command does: expvar, profiles and, if asked for, metrics on another address.
func serveDebug(config *configuration.Configuration) {
	debug := config.HTTP.Debug
	if debug.Addr == "" {
		return
	}
	if debug.Prometheus.Enabled {
		path := debug.Prometheus.Path
		if path == "" {
			path = "/metrics"
		}
		logrus.Info("providing prometheus metrics on ", path)
		http.Handle(path, metrics.Handler())
	}
	go func() {
		logrus.Infof("debug server listening %v", debug.Addr)
		if err := http.ListenAndServe(debug.Addr, nil); err != nil {
			logrus.Fatalf("error listening on debug interface: %v", err)
		}
	}()
}
