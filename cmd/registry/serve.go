package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry"
	"github.com/distribution/distribution/v3/version"
	"github.com/docker/go-metrics"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
	"go.yaml.in/yaml/v3"

	"github.com/nixery-registry/nixery-registry/internal/configcheck"
	"github.com/nixery-registry/nixery-registry/middleware"
)

func serveCommand() *cobra.Command {
	var check bool
	command := &cobra.Command{
		Use:   "serve [flags] [CONFIG]",
		Short: "Serve images that were pushed, and images of Nix packages",
		Long: `Serve images that were pushed, and images of Nix packages.

CONFIG is a Distribution configuration file; REGISTRY_CONFIGURATION_PATH names it otherwise. Images
are built from packages where it has a stanza middleware.repository with the name nix: see
config.yml.example. Without that stanza, this is the stock registry, and needs no Nix.

Where neither names a file, the registry is configured by Nixery's variables, if there are any:
NIXERY_STORAGE_BACKEND (filesystem or gcs), STORAGE_PATH or GCS_BUCKET, PORT, one of NIXERY_CHANNEL,
NIXERY_PKGS_REPO and NIXERY_PKGS_PATH, and if need be WEB_DIR, NIX_TIMEOUT and
GOOGLE_APPLICATION_CREDENTIALS. NIXERY_BUILD_LOCAL=false has nothing built: packages are those of
cache.nixos.org. Else the file is /etc/distribution/config.yml or /etc/docker/registry/config.yml,
where the stock registry's images have theirs.

As with those images, "registry CONFIG" is short for "registry serve CONFIG", if its name ends with
.yml or .yaml.`,
		Example:       "  registry serve config.yml\n  docker pull localhost:5000/shell/git/htop",
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, args []string) error {
			name, text, err := readConfiguration(args)
			if err != nil {
				return err
			}
			config, service, err := load(text)
			ignored := configcheck.Keys(text)
			if check {
				if config != nil {
					ignored = append(ignored, configcheck.Values(config)...)
				}
				err = errors.Join(append(ignored, err)...)
				if err == nil && service != nil {
					err = tryOut(command.Context(), service, name, command.OutOrStdout(), command.ErrOrStderr())
				}
				return fromFile(name, err)
			}
			for _, fault := range ignored {
				logrus.Warnf("%s: %v", name, fault)
			}
			if err == nil {
				err = serve(config, service)
			}
			return fromFile(name, err)
		},
	}
	command.Flags().BoolVar(&check, "check", false, "read the configuration, evaluate the package set, "+
		"report what is wrong with them and how packages are built, and do not serve")
	return command
}

// tryTime is how long --check tries to get at a package set.
const tryTime = 2 * time.Minute

// tryOut returns what is wrong with the package set. If this machine can't find that out, it says
// so on errOut. On out, it tells how packages are built.
func tryOut(ctx context.Context, service *middleware.Service, name string, out, errOut io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	fault, err := service.TryOut(ctx)
	if err != nil {
		fmt.Fprintf(errOut, "%s: the package set was not tried out: %v\n", name, err)
	}
	lines, err := service.How(ctx)
	for _, line := range lines {
		fmt.Fprintf(out, "%s: %s\n", name, line)
	}
	if err != nil {
		fmt.Fprintf(errOut, "%s: it can't be told how packages are built: %v\n", name, err)
	}
	return fault
}

// readConfiguration returns the configuration's text, and where it is from.
func readConfiguration(args []string) (name string, text []byte, err error) {
	name = os.Getenv("REGISTRY_CONFIGURATION_PATH")
	if len(args) > 0 {
		name = args[0]
	}
	if name != "" {
		text, err = os.ReadFile(name)
		return name, text, err
	}
	if isNixerys(os.LookupEnv) {
		text, notes, err := fromEnvironment(os.LookupEnv)
		for _, note := range notes {
			logrus.Info(note)
		}
		return "environment", text, fromFile("environment", err)
	}
	for _, name := range usualPlaces {
		if text, err = os.ReadFile(name); !errors.Is(err, fs.ErrNotExist) {
			return name, text, err
		}
	}
	return "", nil, errors.New("no configuration: name a file, or set REGISTRY_CONFIGURATION_PATH, " +
		"or Nixery's variables; see registry serve --help")
}

// usualPlaces are where images of the stock registry have their configuration: version 3, and those
// before it. The last is that of our own image, which is the stock registry's default.
var usualPlaces = []string{
	"/etc/distribution/config.yml", "/etc/docker/registry/config.yml", "/usr/share/nixery-registry/config.yml",
}

// load reads a configuration and checks what the registry would only find out when it serves. The
// Service is nil if there is no stanza for it.
func load(text []byte) (*configuration.Configuration, *middleware.Service, error) {
	config, err := parse(text)
	if err != nil {
		return nil, nil, err
	}
	var faults []error
	for i, stanza := range config.Middleware["repository"] {
		if stanza.Name != "nix" {
			const fault = "middleware.repository[%d].name: there is no repository middleware %q"
			faults = append(faults, fmt.Errorf(fault, i, stanza.Name))
		}
	}
	service, err := middleware.Setup(config)
	if err != nil {
		faults = append(faults, err)
	}
	return config, service, errors.Join(faults...)
}

// parse reads a configuration as the registry does. It says what to write where the registry does
// not.
func parse(text []byte) (config *configuration.Configuration, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	var versioned struct{ Version any }
	if err := yaml.Unmarshal(text, &versioned); err == nil && fmt.Sprint(versioned.Version) != "0.1" {
		return nil, errors.New("version: write 0.1, the only one that there is")
	}
	config, err = configuration.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return config, nil
}

// fromFile puts where a configuration is from before every line of an error.
func fromFile(name string, err error) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return errors.New(name + ": " + strings.Join(lines, "\n"+name+": "))
}

func serve(config *configuration.Configuration, service *middleware.Service) error {
	keepPrivate(config)
	quietAgain, err := quietTracing(config.Log.Level)
	if err != nil {
		return err
	}
	//nolint:staticcheck // the registry logs by this key
	ctx := context.WithValue(context.Background(), "version", version.Version())
	served, err := newRegistry(ctx, config)
	if err != nil {
		return err
	}
	quietAgain()
	serveDebug(config)
	if service != nil {
		defer service.Close()
		service.Describe(shortVersion())
	}
	return served.ListenAndServe()
}

// quietTracing keeps the registry from sending traces to this machine's port 4318 when nobody asked
// for that. It also keeps it from writing every request and every call of the storage as JSON for a
// log that has no room for it, which is a quarter of what a stored image costs.
//
// It is called before the registry is made: the storage drivers use the first provider of tracers
// that is set. Again is to be called after that: the registry sets a provider of its own, and asks
// for the present one at each request.
func quietTracing(level configuration.Loglevel) (again func(), err error) {
	const exporter = "OTEL_TRACES_EXPORTER"
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "OTEL_") && os.Getenv(exporter) != "none" {
			return func() {}, nil
		}
	}
	again = func() {}
	if level != "debug" {
		again = func() { otel.SetTracerProvider(noop.NewTracerProvider()) }
		again()
	}
	return again, os.Setenv(exporter, "none")
}

// newRegistry returns an error where upstream panics, as it does over a configuration.
func newRegistry(ctx context.Context, config *configuration.Configuration) (r *registry.Registry, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	return registry.NewRegistry(ctx, config)
}

// serveDebug does what upstream's own serve command does: expvar, profiles and, if asked for,
// metrics on another address.
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
