package main

import (
	"bytes"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersions(t *testing.T) {
	now := "v" + strings.TrimSpace(release)
	const ours = "registry github.com/nixery-registry/nixery-registry "
	const upstream = "distribution github.com/distribution/distribution/v3 "
	deps := []*debug.Module{{Path: "example.org/other", Version: "v1.0.0"}, {Path: upstreamModule, Version: "v3.9.9"}}
	checkout := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "8c1f2ab"}}
	for _, test := range []struct {
		name  string
		build *debug.BuildInfo
		want  string
	}{
		{"nothing known", nil, ours + now + "\n" + upstream + "v3."},
		{
			"without a checkout", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Deps: deps},
			ours + now + "\n" + upstream + "v3.9.9\n",
		},
		{
			"of a checkout",
			&debug.BuildInfo{Main: debug.Module{Version: "v0.0.1-0.2026"}, Deps: deps, Settings: checkout},
			ours + now + " 8c1f2ab\n" + upstream + "v3.9.9\n",
		},
		{
			"of a checkout with edits",
			&debug.BuildInfo{Settings: append(checkout, debug.BuildSetting{Key: "vcs.modified", Value: "true"})},
			ours + now + " 8c1f2ab modified\n",
		},
		{
			"go install of the release", &debug.BuildInfo{Main: debug.Module{Version: now}},
			ours + now + "\n",
		},
		{
			"go install of a commit", &debug.BuildInfo{Main: debug.Module{Version: "v9.9.9-0.20261126-8c1f2ab"}},
			ours + now + " v9.9.9-0.20261126-8c1f2ab\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := versions(test.build); !strings.HasPrefix(got, test.want) || strings.Count(got, "\n") != 2 {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestVersionFlag(t *testing.T) {
	root := rootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs([]string{"--version"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`^registry \S+/nixery-registry v\d+\.\d+\.\d+.*\ndistribution \S+/v3 v3\.\d+\.\d+\S*\n$`)
	if !lines.Match(out.Bytes()) {
		t.Errorf("got %q", out.String())
	}
}

// The release that the program says is the newest one of the changelog.
func TestReleaseIsInChangelog(t *testing.T) {
	changelog, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$`).FindSubmatch(changelog)
	if found == nil || string(found[1]) != strings.TrimSpace(release) {
		t.Errorf("cmd/registry/VERSION says %q, the newest release of CHANGELOG.md is %q", release, found)
	}
}
