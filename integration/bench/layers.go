package main

import (
	"context"
	"fmt"
)

// layers prints the table of docs/layering.md, by the Debian packages that apt knows.
func (b *bench) layers(ctx context.Context) error {
	packages := command(ctx, "apt-cache", "dumpavail")
	simulate := command(ctx, "go", "run", "./nixbuilder/layering/simulate")
	simulate.Dir, simulate.Stdout = b.root, b.out
	var err error
	if simulate.Stdin, err = packages.StdoutPipe(); err != nil {
		return err
	}
	if err := packages.Start(); err != nil {
		return err
	}
	if err := simulate.Run(); err != nil {
		return err
	}
	fmt.Fprintln(b.out)
	return packages.Wait()
}
