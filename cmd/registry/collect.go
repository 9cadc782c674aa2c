package main

import (
	"context"
	"fmt"
	"io"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/nixery-registry/nixery-registry/middleware"
	"github.com/nixery-registry/nixery-registry/middleware/collection"
)

func collectCommand(config *string) *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use:   "collect",
		Short: "Delete what only built images had that no tag leads to any more",
		Long: `Delete what only built images had that no tag leads to any more, while registries serve the storage.

Without --yes, this tells what would be deleted, and deletes nothing. What was pushed stays, and so
does all that an index, a signature or another referrer needs, or that was stored within a day. Who
pulls a deleted image by its digest has it built again.

With --yes, it takes a quarter of an hour or more. For one minute of that, and up to five, all
registries refuse pushes and builds (503, Retry-After). Pulls of what is stored go on. It may be
interrupted at any time: the next run finishes. All registries on the storage must be of a version
that has this command.

Stdout has a line NAME@DIGEST for each manifest that no repository has any more. All else is on
stderr.`,
		Example:       "  registry nix collect --config config.yml\n  registry nix collect --config config.yml --yes",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			work := func(ctx context.Context, service *middleware.Service) error {
				return collect(ctx, service, !yes, command.OutOrStdout(), command.ErrOrStderr())
			}
			return withService(command.Context(), *config, work)
		},
	}
	command.Flags().BoolVar(&yes, "yes", false, "delete, and do not only tell what would be deleted")
	return command
}

// collect collects blobs, and prints what it did.
func collect(ctx context.Context, service *middleware.Service, dry bool, out, errOut io.Writer) error {
	if !dry {
		fmt.Fprintf(errOut, "this takes a quarter of an hour or more: pulls under way are waited for\n")
	}
	report, err := service.Collect(ctx, dry)
	if err != nil {
		return err
	}
	for _, repository := range report.Repositories {
		for _, manifest := range repository.Manifests {
			if _, err := fmt.Fprintf(out, "%s@%s\n", repository.Name, manifest); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(errOut, summary(report, dry))
	return nil
}

// summary says in a line what was deleted.
func summary(report collection.Report, dry bool) string {
	did := "deleted"
	if dry {
		did = "would be deleted by --yes"
	}
	text := fmt.Sprintf("%d manifests of %d repositories and %d blobs with %s %s", report.Manifests(),
		len(report.Repositories), report.Blobs, units.HumanSize(float64(report.Bytes)), did)
	if report.Rest {
		text += ", and there is more for the next run"
	}
	return text
}
