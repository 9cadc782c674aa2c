package main

import (
	_ "embed"
	"runtime/debug"
	"strings"

	"github.com/distribution/distribution/v3/version"
)

// release is the release that this is, or the last one before it. The file is all that says so: it
// is in every build, and default.nix reads it too.
//
//go:embed VERSION
var release string

const (
	ourModule      = "github.com/nixery-registry/nixery-registry"
	upstreamModule = "github.com/distribution/distribution/v3"
)

// versions says in two lines, in upstream's form, which version of this program is running and
// which of Distribution is in it. After the release comes the commit, as far as the build knows it:
// go build in a checkout does, and so does go install of a module.
func versions(build *debug.BuildInfo) string {
	ours, upstream := "v"+strings.TrimSpace(release), version.Version()
	if build != nil {
		if commit := commitOf(build); commit != "" {
			ours += " " + commit
		}
		for _, module := range build.Deps {
			if module.Path == upstreamModule {
				upstream = module.Version
			}
		}
	}
	return "registry " + ourModule + " " + ours + "\n" + "distribution " + upstreamModule + " " + upstream + "\n"
}

// shortVersion is the release, and the commit where it is known.
func shortVersion() string {
	short := "v" + strings.TrimSpace(release)
	if build, ok := debug.ReadBuildInfo(); ok {
		if commit := commitOf(build); commit != "" {
			short += " " + commit
		}
	}
	return short
}

// commitOf is the commit that a program was built from, or the version of its module where that
// tells more than the release; or empty.
func commitOf(build *debug.BuildInfo) (commit string) {
	var modified string
	for _, setting := range build.Settings {
		switch {
		case setting.Key == "vcs.revision":
			commit = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			modified = " modified"
		}
	}
	module := build.Main.Version
	switch {
	case commit != "":
		return commit + modified
	case module == "(devel)" || module == "v"+strings.TrimSpace(release):
		return ""
	}
	return module
}
