package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/nixery-registry/nixery-registry/middleware"
	"github.com/nixery-registry/nixery-registry/middleware/retention"
)

// A prune is a call of the command.
type prune struct {
	limits       middleware.RetentionOptions
	really, json bool
}

func pruneCommand(config *string) *cobra.Command {
	var p prune
	command := &cobra.Command{
		Use:   "prune",
		Short: "Remove built images that nobody needs any more; by default, tell which",
		Long: `Remove built images that nobody needs any more; by default, tell which.

What was pushed stays, and so do images that something pushed refers to, such as an index or a
signature; images that the option prebuild names; and what was built or tagged within the last hour.
An image that was removed is built again when somebody pulls it.

The limits are those of the option retention; a flag takes the place of its limit, and 0 (0s) is
none. Registries that have this option do the same once a day.

For every tag that goes, stdout has a line with NAME:TAG, the revision, when it was pulled last,
how many bytes nothing else has, and why it goes. All else is on stderr. Tags are removed, and
records of what is not there any more; the bytes are freed by garbage collection after that:
"registry nix collect --yes" while registries serve, or "registry garbage-collect -m CONFIG" with
them stopped or in read-only mode.`,
		Example: "  registry nix prune --config config.yml --keep 3\n" +
			"  registry nix prune --config config.yml --unused 720h --maxsize 200GB --yes",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := command.Flags()
	flags.DurationVar(&p.limits.Unused, "unused", 0, "remove what nobody has pulled for so long: 24h or more")
	flags.IntVar(&p.limits.Keep, "keep", 0, "of each name, remove the tags of revisions but for `N` that were built last")
	flags.Var(&p.limits.MaxSize, "maxsize",
		"remove what was pulled least recently, until the blobs that only built images have take no more")
	flags.Lookup("maxsize").DefValue = "" // none
	flags.BoolVar(&p.really, "yes", false, "do it")
	flags.BoolVar(&p.json, "json", false, "print one JSON object in place of lines")
	command.RunE = func(command *cobra.Command, _ []string) error {
		return withService(command.Context(), *config, func(ctx context.Context, service *middleware.Service) error {
			limits := service.Retention()
			if flags.Changed("unused") {
				limits.Unused = p.limits.Unused
			}
			if flags.Changed("keep") {
				limits.Keep = p.limits.Keep
			}
			if flags.Changed("maxsize") {
				limits.MaxSize = p.limits.MaxSize
			}
			if limits == (middleware.RetentionOptions{}) {
				return errors.New("there is no limit: give --unused, --keep or --maxsize, or set the option retention")
			}
			result, err := service.Prune(ctx, limits, !p.really)
			if err != nil && len(result.Removals) == 0 {
				return err
			}
			return errors.Join(p.print(result, limits, command.OutOrStdout(), command.ErrOrStderr()), err)
		})
	}
	return command
}

// print tells what goes, or went, and what that means.
func (p prune) print(result retention.Result, limits middleware.RetentionOptions, out, errOut io.Writer) error {
	write := writeLines
	if p.json {
		write = p.writeJSON
	}
	if err := write(out, result); err != nil {
		return err
	}
	if limits.Unused > 0 || limits.MaxSize > 0 {
		since := "No registry records pulls, so each image counts as pulled now: set the option retention where they run."
		if !result.Since.IsZero() {
			since = "Pulls are recorded since " + result.Since.Local().Format(time.DateTime) +
				": no image counts as pulled earlier."
		}
		fmt.Fprintln(errOut, since)
	}
	size := units.HumanSize(float64(result.Bytes))
	if !p.really {
		fmt.Fprintf(errOut, "%d of %d tags of built images would be removed, and %s be free after garbage collection. "+
			"--yes does it.\n", len(result.Removals), result.Images, size)
		return nil
	}
	records := 0
	for _, n := range result.Records {
		records += n
	}
	fmt.Fprintf(errOut, "%d of %d tags of built images were removed, and %d records.\n",
		len(result.Removals), result.Images, records)
	if len(result.Removals) > 0 {
		fmt.Fprintf(errOut, "%s will be free after garbage collection: run registry nix collect --yes,\n"+
			"or, with registries stopped or in read-only mode, registry garbage-collect -m CONFIG\n", size)
	}
	return nil
}

func writeLines(out io.Writer, result retention.Result) error {
	lines := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(result.Removals) > 0 {
		fmt.Fprintln(lines, "IMAGE\tREVISION\tLAST PULL\tFREES\tREASON")
	}
	for _, removal := range result.Removals {
		pulled := "-"
		if !removal.LastPull.IsZero() {
			pulled = removal.LastPull.Local().Format(time.DateOnly)
		}
		fmt.Fprintf(lines, "%s:%s\t%s\t%s\t%s\t%s\n", removal.Repository, removal.Tag, short(removal.Revision), pulled,
			units.HumanSize(float64(removal.Bytes)), removal.Reason)
	}
	return lines.Flush()
}

// short is how a revision is shown where people read it.
func short(revision string) string { return revision[:min(len(revision), 12)] }

// A jsonRemoval is a tag that goes.
type jsonRemoval struct {
	Image    string        `json:"image"`
	Digest   digest.Digest `json:"digest"`
	Revision string        `json:"revision"`
	Built    time.Time     `json:"built"`
	LastPull *time.Time    `json:"lastPull"` // null: none is recorded
	Bytes    int64         `json:"bytes"`
	Reason   string        `json:"reason"`
}

// known returns nil for a time that is not known.
func known(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

func (p prune) writeJSON(out io.Writer, result retention.Result) error {
	removals := make([]jsonRemoval, 0, len(result.Removals))
	for _, removal := range result.Removals {
		one := jsonRemoval{
			Image: removal.Repository + ":" + removal.Tag, Digest: removal.Digest, Revision: removal.Revision,
			Built: removal.Built, Bytes: removal.Bytes, Reason: removal.Reason,
		}
		one.LastPull = known(removal.LastPull)
		removals = append(removals, one)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Dry        bool           `json:"dry"`
		Since      *time.Time     `json:"pullsRecordedSince"` // null: they are not
		Images     int            `json:"images"`
		Removals   []jsonRemoval  `json:"removals"`
		Bytes      int64          `json:"bytes"`
		SweptKinds map[string]int `json:"records"`
	}{!p.really, known(result.Since), result.Images, removals, result.Bytes, result.Records})
}
