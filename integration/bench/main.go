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
}

func groups() []group {
	return []group{
		{"cold", "store paths in the Nix store become blobs and a manifest in an empty registry", (*bench).cold},
		{"substituted", "the same, with nothing in the Nix store and a binary cache on loopback (root only)", (*bench).substituted},
		{"combination", "packages that were all served before, never together", (*bench).combination},
		{"again", "an image that is stored and has not changed", (*bench).again},
		{"many", "many images, many clients, and pulls beside a build", (*bench).many},
		{"stored", "throughput of what is stored, against the stock registry", (*bench).stored},
		{"memory", "resident memory of builds", (*bench).memory},
		{"layers", "the simulation of docs/layering.md", (*bench).layers},
	}
}

func main() {
	o := options{names: demoImages()}
	flag.IntVar(&o.runs, "runs", 3, "how often each is measured; figures are medians")
	flag.StringVar(&o.peer, "peer", "", "`URL` of another server, to be asked the same; its storage should be empty")
	chosen := flag.String("groups", "", "`names` of groups, separated by commas (default: all)")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage: make bench [GROUP=NAMES] [RUNS=N] [PEER=URL], or, after `make demo`: go run ./integration/bench [flags]")
		flag.PrintDefaults()
		fmt.Fprintln(os.Stderr, "\nGroups:")
		for _, g := range groups() {
			fmt.Fprintf(os.Stderr, "  %-12s %s\n", g.name, g.about)
		}
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Stdout, o, *chosen, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures the groups of a list. What was measured before an error or a signal is printed.
func run(ctx context.Context, out io.Writer, o options, list string, args []string) error {
	selected, err := choose(list)
	if err != nil {
		return err
	}
	if len(args) > 0 || o.runs < 1 {
		return errors.New("takes no arguments but flags, and at least one run: see --help")
	}
	o.peer = strings.TrimSuffix(o.peer, "/")
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

// choose returns the groups of a list, in the order of the report; all if it is empty.
func choose(list string) ([]group, error) {
	all := groups()
	if list == "" {
		return all, nil
	}
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(g group) bool { return g.name == name }) {
			return nil, fmt.Errorf("there is no group %q: see --help", name)
		}
	}
	return slices.DeleteFunc(all, func(g group) bool { return !slices.Contains(wanted, g.name) }), nil
}
