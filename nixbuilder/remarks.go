package nixbuilder

import (
	"regexp"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// How Nix words what it has to say about builds and remote builders.
var (
	failedBuild     = regexp.MustCompile(`^error: (build of|builder for|building of) '/nix/store/`)
	unusableBuilder = regexp.MustCompile(`^cannot build on '`)
	lostBuilder     = regexp.MustCompile(`^error: (unexpected end-of-file|writing to file: Broken pipe)`)
	timedOut        = regexp.MustCompile(`timed out after \d+ seconds`)
)

// remarks are what Nix says while it builds. Why a dependency failed, or a build on a remote builder, is nowhere else: the result is
// then that a dependency failed, or that Nix's own helper did. Each list has logLines entries at most.
type remarks struct {
	tails    map[store.Path][]string // the last lines of each builder's log
	failed   []string                // the first builds that failed
	unusable []string                // the first remote builders that could not be reached, or have nothing to build with
	lost     []string                // what was said of those that went away in the middle of a build
}

func (r *remarks) add(line daemon.LogLine) {
	if line.Drv != "" {
		tail := append(r.tails[line.Drv], line.Text)
		r.tails[line.Drv] = tail[max(0, len(tail)-logLines):]
		return
	}
	note := func(list *[]string, pattern *regexp.Regexp) {
		if len(*list) < logLines && pattern.MatchString(line.Text) {
			*list = append(*list, line.Text)
		}
	}
	note(&r.failed, failedBuild)
	note(&r.unusable, unusableBuilder)
	note(&r.lost, lostBuilder)
}

// complete puts before the message of a failure what was said of its cause.
func (r *remarks) complete(failure daemon.Result) daemon.Result {
	for _, cause := range r.failed {
		own := failure.Status == daemon.MiscFailure && strings.Contains(cause, "'"+string(failure.Target.Path())+"'")
		if !own && failure.Status != daemon.DependencyFailed {
			continue
		}
		failure.Message = cause + "\n" + failure.Message
		if timedOut.MatchString(cause) {
			failure.Status = daemon.TimedOut
		}
		break
	}
	return failure
}
