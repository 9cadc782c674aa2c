package integration

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// Tests wait, for Nix and for time to pass, more than they compute. What the command line says
	// counts.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		fmt.Println("integration: not with -short")
		return 0
	}
	var err error
	if shared, err = newSuite(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	defer shared.close()
	return m.Run()
}
