package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"sync"
	"syscall"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/middleware"
	"github.com/nixery-registry/nixery-registry/nixbuilder"
)

// nixCommand groups the commands that prepare and remove images of Nix packages.
func nixCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "nix",
		Short: "Prepare images of Nix packages before anyone asks for them, and clean up",
		Long: `Prepare images of Nix packages before anyone asks for them, and clean up after them.

These commands work on the storage and the Nix store that the configuration names, whether or not
registries serve it meanwhile. Run them as the user that the registry runs as.`,
		Args: cobra.NoArgs, // names of other commands
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	var config string
	command.PersistentFlags().StringVar(&config, "config", "",
		"the registry's configuration `FILE` (default: what registry serve would take, see there)")
	command.AddCommand(
		buildCommand(&config), layoutCommand(&config), refreshCommand(&config), pruneCommand(&config),
		collectCommand(&config),
	)
	return command
}

func buildCommand(config *string) *cobra.Command {
	return &cobra.Command{
		Use:   "build NAME[:TAG]...",
		Short: "Build images and store them, as a pull of each would",
		Long: `Build images and store them, as a pull of each would.

NAME is what is pulled, without the host. Packages are those of the set that the configuration
names, TAG (latest) says of which revision.

For every image that is there in the end, one line on stdout has its name and tag, its digest, and
one of: built; unchanged, if it was there and the package set is still the same; pushed, if somebody
has pushed an image under that tag, which is then left alone. What goes wrong is on stderr. The exit
status is 1 if any image failed.`,
		Example:       "  registry nix build --config config.yml shell/git/htop hello:latest",
		Args:          cobra.MinimumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, images []string) error {
			work := func(ctx context.Context, service *middleware.Service) error {
				return build(ctx, service, images, command.OutOrStdout(), command.ErrOrStderr())
			}
			return withService(command.Context(), *config, work)
		},
	}
}

func layoutCommand(config *string) *cobra.Command {
	var options nixbuilder.LayoutOptions
	command := &cobra.Command{
		Use:   "layout [NAME...]",
		Short: "Decide which packages share layers, for the whole package set at once",
		Long: `Decide which packages share layers, for the whole package set at once.

Without this, the first image that has a package decides. With it, images do not depend on what was
asked for first, and share more. Decisions that were made before stay; packages that come later are
decided about when they come, or when this is run again.

Every NAME is a package, or a set of packages such as perlPackages; none stands for the whole set.
What a package refers to is known from the Nix store, or else from binary caches, of which nothing
is downloaded. A package that neither has is skipped and counted.`,
		Example: "  registry nix layout --config config.yml\n" +
			"  registry nix layout --config config.yml --build git htop perlPackages",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, names []string) error {
			options.Names = names
			work := func(ctx context.Context, service *middleware.Service) error {
				return layout(ctx, service, options, command.OutOrStdout())
			}
			return withService(command.Context(), *config, work)
		},
	}
	command.Flags().BoolVar(&options.Build, "build", false,
		"download and build packages, so that none is skipped that can be built")
	return command
}

func refreshCommand(config *string) *cobra.Command {
	return &cobra.Command{
		Use:   "refresh",
		Short: "Have all registries on this storage look the package set up now",
		Long: `Have all registries on this storage look the package set up now.

Without this, a channel or branch is believed for as long as the option refresh says. The registries
see it within five seconds. It writes a record into the storage, and looks nothing up itself.`,
		Example:       "  registry nix refresh --config config.yml",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			work := func(ctx context.Context, service *middleware.Service) error { return service.Refresh(ctx) }
			return withService(command.Context(), *config, work)
		},
	}
}

// withService runs work with the Service of a configuration, until that ends or the process is told
// to end.
func withService(ctx context.Context, config string, work func(context.Context, *middleware.Service) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	var args []string
	if config != "" {
		args = []string{config}
	}
	name, text, err := readConfiguration(args)
	if err != nil {
		return err
	}
	parsed, service, err := load(text)
	switch {
	case err != nil:
		return fromFile(name, err)
	case service == nil:
		return fmt.Errorf("%s: middleware.repository: there is no stanza with the name nix", name)
	}
	if err := setLevel(parsed); err != nil {
		return fromFile(name, err)
	}
	keepPrivate(parsed)
	defer service.Close()
	if err := service.Open(ctx); err != nil {
		return fromFile(name, err)
	}
	err = work(ctx, service)
	if drained := service.Drain(ctx); drained != nil && ctx.Err() == nil {
		logrus.Warn("nix: ", drained)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// setLevel logs as much as the registry would. The log goes to the terminal, in its form.
func setLevel(config *configuration.Configuration) error {
	level := string(config.Log.Level)
	if level == "" {
		return nil
	}
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	logrus.SetLevel(parsed)
	return nil
}

// build makes images, several at a time, and prints each as it is done.
func build(ctx context.Context, service *middleware.Service, images []string, out, errOut io.Writer) error {
	var all errgroup.Group
	all.SetLimit(service.Concurrency())
	var mu sync.Mutex // of out, errOut and failed
	failed := 0
	for _, image := range images {
		all.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			made, err := service.Build(ctx, image)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				failed++
				fmt.Fprintf(errOut, "%s: %v\n", image, err)
			default:
				_, err = fmt.Fprintf(out, "%s %s %s\n", made.Image, made.Digest, made.How)
				return err
			}
			return nil
		})
	}
	err := all.Wait()
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d images failed", failed, len(images))
	}
	return err
}

// layout decides about layers, and prints the result.
func layout(ctx context.Context, service *middleware.Service, options nixbuilder.LayoutOptions, out io.Writer) error {
	revision, made, err := service.Layout(ctx, options)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %d packages with %d store paths, %d entries added, %d known\n",
		revision, made.Packages, made.Paths, made.Added, made.Known)
	if made.Absent > 0 {
		way := "; --build builds them"
		if options.Build {
			way = ", see above"
		}
		logrus.Warnf("%d packages are skipped: neither the Nix store nor a binary cache has them%s", made.Absent, way)
	}
	if made.Failed+made.Denied > 0 {
		logrus.Infof("%d names are skipped that give no package, and %d packages that are denied",
			made.Failed, made.Denied)
	}
	return err
}
