package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// A group is a table or two.
type group struct {
	name, about string
	measure     func(*bench, context.Context) error
	ofSet       bool // it measures a package set of the user's own, and no image
}

func groups() []group {
	return []group{
		{
			name:    "cold",
			about:   "store paths in the Nix store become blobs and a manifest in an empty registry",
			measure: (*bench).cold,
		},
		{
			name:    "substituted",
			about:   "the same, with nothing in the Nix store and a binary cache on loopback (root only)",
			measure: (*bench).substituted,
		},
		{
			name:    "combination",
			about:   "packages that were all served before, never together",
			measure: (*bench).combination,
		},
		{name: "again", about: "an image that is stored and has not changed", measure: (*bench).again},
		{name: "many", about: "many images, many clients, and pulls beside a build", measure: (*bench).many},
		{name: "stored", about: "what is stored: requests, whole pulls, slow readers; against the stock registry, peers, and a file server", measure: (*bench).stored},
		{name: "memory", about: "resident memory of builds", measure: (*bench).memory},
		{name: "layers", about: "the simulation of docs/layering.md", measure: (*bench).layers},
		{
			name:    "nixpkgs",
			about:   "evaluating a real nixpkgs, against Nix itself, and keeping its revisions (needs SET, and a Nix that is new enough)",
			measure: (*bench).nixpkgs,
			ofSet:   true,
		},
	}
}

func main() {
	o := options{names: demoImages(), pulls: pulledImages(), turns: 3}
	flag.IntVar(&o.runs, "runs", 3, "how often each is measured; figures are medians")
	flag.StringVar(&o.set, "set", "", "`directory` with nixpkgs, for the group nixpkgs")
	peers := flag.String(
		"peers", "", "`NAME=URL,…` of registries beside this one, for the group stored, which copies its images to them",
	)
	chosen := flag.String("groups", "", "`names` of groups, separated by commas (default: all)")
	flag.Usage = func() {
		fmt.Fprintln(
			os.Stderr,
			"Usage: make bench [GROUP=NAMES] [RUNS=N] [PEERS=NAME=URL,…] [SET=DIR], or, after `make demo`: go run ./integration/bench [flags]",
		)
		flag.PrintDefaults()
		fmt.Fprintln(os.Stderr, "\nGroups:")
		for _, g := range groups() {
			fmt.Fprintf(os.Stderr, "  %-12s %s\n", g.name, g.about)
		}
	}
	flag.Parse()
	var err error
	if o.peers, err = parsePeers(*peers); err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		err = run(ctx, os.Stdout, o, *chosen, flag.Args())
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures the groups of a list. What was measured before an error or a signal is printed.
func run(ctx context.Context, out io.Writer, o options, list string, args []string) error {
	selected, err := choose(list, o.set != "")
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(selected, func(g group) bool { return !g.ofSet }) {
		o.names = nil
	}
	if len(args) > 0 || o.runs < 1 {
		return errors.New("takes no arguments but flags, and at least one run: see --help")
	}
	if len(o.peers) > 0 && !slices.ContainsFunc(selected, func(g group) bool { return g.name == "stored" }) {
		return errors.New("peers are for the group stored, which is not among those that are asked for")
	}
	b, err := newBench(ctx, out, o)
	if err != nil {
		return err
	}
	defer b.printTargets()
	for _, g := range selected {
		b.progress("%s: %s", g.name, g.about)
		fmt.Fprintf(b.out, "## %s\n\n", g.name)
		if err := g.measure(b, ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	return nil
}

// choose returns the groups of a list, in the order of the report; if it is empty all, but for
// those of a set if there is none.
func choose(list string, withSet bool) ([]group, error) {
	all := groups()
	if list == "" {
		return slices.DeleteFunc(all, func(g group) bool { return g.ofSet && !withSet }), nil
	}
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(g group) bool { return g.name == name }) {
			return nil, fmt.Errorf("there is no group %q: see --help", name)
		}
	}
	return slices.DeleteFunc(all, func(g group) bool { return !slices.Contains(wanted, g.name) }), nil
}
