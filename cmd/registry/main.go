// Command registry is the CNCF Distribution registry with images from Nix packages. A name that is
// made of package names, and that nobody has pushed, is built when it is pulled.
package main

import (
	"errors"
	"fmt"
	_ "net/http/pprof" // served where http.debug.addr is set, as by the stock registry
	"os"
	"runtime/debug"
	"strings"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/silly"
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	_ "github.com/distribution/distribution/v3/registry/proxy"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/azure"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/gcs"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/middleware/cloudfront"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/middleware/redirect"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/middleware/rewrite"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/nixery-registry/nixery-registry/middleware"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

func main() {
	if err := proc.Protect(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	logrus.AddHook(redaction{})
	registry.RegisterHandler(middleware.Site)
	registry.RegisterHandler(middleware.Tokens)
	registry.RegisterHandler(middleware.Health)
	registry.RegisterHandler(middleware.Refresh)
	registry.RegisterHandler(middleware.Writes)
	registry.RegisterHandler(middleware.Blobs) // last, and so outermost
	root := rootCommand()
	root.SetArgs(asServed(os.Args[1:]))
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// asServed puts serve before the file of a configuration, as the entry point of the stock
// registry's images does.
func asServed(args []string) []string {
	if len(args) > 0 && (strings.HasSuffix(args[0], ".yml") || strings.HasSuffix(args[0], ".yaml")) {
		return append([]string{"serve"}, args...)
	}
	return args
}

// rootCommand is upstream's, with our own serve and --version, and the commands below nix.
func rootCommand() *cobra.Command {
	root := registry.RootCmd
	root.RemoveCommand(registry.ServeCmd)
	root.AddCommand(serveCommand(), nixCommand())
	root.SilenceErrors = true // printed by main, once
	root.Short = "A container registry that builds images from Nix packages when they are pulled"
	root.Long = root.Short + ".\n\nAll else is as in the CNCF Distribution registry, whose configuration it takes."
	root.RunE = func(command *cobra.Command, _ []string) error {
		if show, err := command.Flags().GetBool("version"); err != nil || !show {
			return errors.Join(err, command.Usage())
		}
		build, _ := debug.ReadBuildInfo()
		_, err := fmt.Fprint(command.OutOrStdout(), versions(build))
		return err
	}
	return root
}
