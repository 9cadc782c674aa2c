package integration

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs each file of testdata as a test of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		WorkdirRoot:        Dir(t),
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			t := env.T().(testing.TB)
			env.Vars = append(env.Vars, shared.variables()...)
			env.Setenv("DEMO", DemoPackages(t))
			if _, err := shared.binary(); err != nil {
				return err
			}
			env.Values[scriptKey{}] = &script{t: t}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"needs":    func(ts *testscript.TestScript, _ bool, args []string) { Needs(scriptOf(ts).t, args...) },
			"packages": packagesCommand,
			"registry": registryCommand,
		},
	})
}

// A script is one that runs.
type script struct {
	t        testing.TB
	registry *Registry
}

type scriptKey struct{}

func scriptOf(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

func packagesCommand(ts *testscript.TestScript, neg bool, args []string) {
	sets := map[string]func(testing.TB) string{"demo": CopyDemoPackages, "fresh": FreshPackages}
	if neg || len(args) != 1 || sets[args[0]] == nil {
		ts.Fatalf("usage: packages demo|fresh")
	}
	ts.Setenv("PACKAGES", sets[args[0]](scriptOf(ts).t))
}

func registryCommand(ts *testscript.TestScript, neg bool, args []string) {
	s := scriptOf(ts)
	if neg || len(args) == 0 || args[0] != "start" && s.registry == nil {
		ts.Fatalf("usage: registry start [KEY=VALUE…], then registry stop|kill|restart|log|get PATH")
	}
	switch action := args[0]; {
	case action == "start":
		settings := slices.Clone(args[1:])
		if packages := ts.Getenv("PACKAGES"); packages != "" {
			settings = append(settings, "nix.packages.path="+packages)
		}
		s.registry = StartRegistry(s.t, settings...)
	case action == "stop":
		s.registry.Stop()
	case action == "kill":
		s.registry.Kill()
	case action == "restart":
		s.registry.Stop()
		s.registry.Start()
	case action == "log":
		fmt.Fprint(ts.Stdout(), s.registry.Log())
	case action == "get" && len(args) == 2:
		status, header, body, err := s.registry.Get(
			s.t.Context(), args[1], "application/vnd.oci.image.manifest.v1+json",
		)
		ts.Check(err)
		fmt.Fprintln(ts.Stdout(), status)
		var fields bytes.Buffer
		ts.Check(header.Write(&fields))
		fmt.Fprintf(ts.Stdout(), "%s\n%s\n", strings.ReplaceAll(fields.String(), "\r", ""), body)
	default:
		ts.Fatalf("registry: unknown action %q", action)
	}
	ts.Setenv("ADDR", s.registry.Addr)
}
