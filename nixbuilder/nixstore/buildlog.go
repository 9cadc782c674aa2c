package nixstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// logLines is how much of the log of a failed build its message has.
const logLines = 10

// A buildLog gathers what Nix says while it builds. Only the log tells why a build on a remote
// builder failed: the daemon's answer then is that Nix's own helper did. Each list has logLines
// entries at most.
type buildLog struct {
	tails    map[store.Path][]string // the last lines of each builder's log
	failed   []string                // builds that failed elsewhere, and downloads for builds
	reason   bool                    // the last of them may go on with the next line
	unusable []string                // the first remote builders that did not answer, or can't build
	lost     []string                // what was said of those that went away in the middle of a build

	untrusted []substitute // the first paths that binary caches have, and no trusted key has signed
	archives  []string     // what was said of archives that are gone or damaged
	unheard   []string     // what was said of binary caches that did not answer
	leftOut   []string     // the URLs of those that are not asked again
	told      bool         // to the operator

	isShare func(text string) bool // of what is said of a cache
	share   string                 // the first that was said of the share not answering
}

// A substitute is a store path in a binary cache, by the cache's URL without a password.
type substitute struct {
	path  store.Path
	cache string
}

func newBuildLog() *buildLog {
	return &buildLog{tails: make(map[store.Path][]string), isShare: func(string) bool { return false }}
}

func (l *buildLog) add(line daemon.LogLine) {
	if line.Builder != "" {
		metrics.BuilderUp(line.Builder, true)
		return
	}
	if line.Drv != "" {
		text := wordsSerialized.ReplaceAllString(line.Text, "$1")
		if text == "" {
			return
		}
		tail := append(l.tails[line.Drv], text)
		l.tails[line.Drv] = tail[max(0, len(tail)-logLines):]
		return
	}
	if l.reason {
		l.reason = false
		if reason := strings.TrimSpace(line.Text); strings.HasPrefix(reason, "Reason: ") {
			l.failed[len(l.failed)-1] += " " + reason
			return
		}
	}
	l.addOfCaches(line.Text)
	if builder := wordsUnusable.FindStringSubmatch(line.Text); builder != nil {
		metrics.BuilderUp(builder[1], false)
	}
	switch text := line.Text; {
	case wordsRemote.MatchString(text), wordsSubstitutes.MatchString(text):
		if len(l.failed) < logLines {
			l.failed = append(l.failed, text)
			l.reason = true
		}
	case wordsUnusable.MatchString(text) && len(l.unusable) < logLines:
		l.unusable = append(l.unusable, text)
	case wordsLost.MatchString(text) && len(l.lost) < logLines:
		l.lost = append(l.lost, text)
	}
}

// addOfCaches takes a line of the daemon about binary caches.
func (l *buildLog) addOfCaches(text string) {
	note := func(list *[]string, text string) {
		text = strings.TrimPrefix(strings.TrimPrefix(text, "warning: "), "error: ")
		if len(*list) < logLines && !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	untrusted := wordsUntrusted.FindStringSubmatch(text)
	leftOut := wordsLeftOut.FindStringSubmatch(text)
	switch {
	case untrusted != nil:
		found := substitute{store.Path(untrusted[1]), untrusted[2]}
		if len(l.untrusted) < logLines && !slices.Contains(l.untrusted, found) {
			l.untrusted = append(l.untrusted, found)
		}
	case wordsLostArchive.MatchString(text), wordsBadArchive.MatchString(text):
		note(&l.archives, text)
	case l.isShare(text) && (leftOut != nil || wordsNoAnswer.MatchString(text)):
		// No image waits for it: what it does not give is built.
		l.share = cmp.Or(l.share, text)
		if leftOut == nil {
			note(&l.archives, text)
		}
	case leftOut != nil:
		note(&l.leftOut, cmp.Or(leftOut[1], leftOut[2]))
		note(&l.unheard, text)
	case wordsNoAnswer.MatchString(text):
		note(&l.unheard, text)
	}
}

// damaged tells whether archives are gone or damaged, rather than out of reach for a while.
func (l *buildLog) damaged() bool { return len(l.archives) > 0 && len(l.unheard) == 0 }

// aside is what clients are told of binary caches after the reason for a failure. It may be empty.
func (l *buildLog) aside() string {
	var text strings.Builder
	if n := len(l.untrusted); n > 0 {
		more := ""
		if n > 1 {
			more = " and others"
		}
		fmt.Fprintf(
			&text, "; a binary cache has %s%s, but no key that this registry trusts has signed that",
			l.untrusted[0].path.Name(), more,
		)
	}
	if len(l.archives) > 0 {
		text.WriteString("; a binary cache has it, or what it is made of, but the archive is gone or damaged")
	}
	if len(l.leftOut) > 0 {
		text.WriteString("; a binary cache does not answer at the moment")
	}
	return text.String()
}

// failure sums up results, or the error in their place: nil, a *buildError about the cause of all
// that failed, or an error for the operator.
func (l *buildLog) failure(results []daemon.Result, err error) error {
	var failed *buildError
	if reported := (*daemon.Error)(nil); errors.As(err, &reported) {
		failed = wholeOperation(reported.Message)
	}
	if failed == nil && err != nil {
		return err
	}
	var failures []daemon.Result
	for _, result := range results {
		if !result.Status.Success() {
			failures = append(failures, l.complete(result))
		}
	}
	if len(failures) > 0 {
		cause := slices.MinFunc(failures, func(a, b daemon.Result) int { return blame(a) - blame(b) })
		failed = &buildError{path: culprit(cause), status: cause.Status, reason: cause.Message}
	}
	if failed == nil {
		return nil
	}
	failed.tail = l.tails[failed.path]
	log := strings.Join(failed.tail, "\n")
	failed.unreached = failed.status == daemon.TransientFailure && wordsUnreached.MatchString(log) &&
		!wordsGone.MatchString(log)
	failed.caches, failed.absent = l.aside(), len(l.leftOut) > 0
	failed.silent = !strings.HasSuffix(string(failed.path), ".drv") && len(l.unheard) > len(l.leftOut)
	if machine := failed.machine(); machine != "" && len(l.unusable) > 0 { // it may be there when somebody asks again
		return fmt.Errorf(
			"building %s, which needs a machine %s: %s", failed.path.Name(), machine,
			strings.Join(l.unusable, "; "),
		)
	}
	if len(l.lost) > 0 {
		return fmt.Errorf("building %s: lost the remote builder: %s", failed.path.Name(), strings.Join(l.lost, "; "))
	}
	return failed
}

// wholeOperation is the *buildError of a derivation that ended the whole operation, by the error's
// message. It is nil for other errors.
func wholeOperation(message string) *buildError {
	var status daemon.Status
	switch {
	case wordsMachine.MatchString(message):
		status = daemon.InputRejected
	case wordsCycle.MatchString(message), wordsFileType.MatchString(message):
		status = daemon.OutputRejected
	case wordsNoSandbox.MatchString(message), wordsImpure.MatchString(message), wordsGraph.MatchString(message):
		status = daemon.InputRejected
	case wordsLongName.MatchString(message):
		status = daemon.OutputRejected
	default:
		return nil
	}
	path := cmp.Or(derivationPath.FindString(message), storePath.FindString(message)) // some name neither
	return &buildError{path: store.Path(path), status: status, reason: message}
}

// blame orders failures: causes come before what came of them.
func blame(result daemon.Result) int {
	switch result.Status {
	case daemon.PermanentFailure,
		daemon.InputRejected,
		daemon.OutputRejected,
		daemon.TimedOut,
		daemon.LogLimitExceeded,
		daemon.NotDeterministic:
		return 0
	case daemon.DependencyFailed:
		return 2
	}
	if result.Message == "" { // another failure stopped it
		return 3
	}
	return 1
}

// complete puts before a failure's message what the log said of its cause.
func (l *buildLog) complete(failure daemon.Result) daemon.Result {
	for _, cause := range l.failed {
		if target, ok := resolved(failure, cause); ok {
			failure.Target, failure.Message = target, cause
			break
		}
		own := failure.Status == daemon.MiscFailure && strings.Contains(cause, "'"+string(failure.Target.Path())+"'")
		if !own && failure.Status != daemon.DependencyFailed {
			continue
		}
		failure.Message = cause + "\n" + failure.Message
		if wordsTimedOut.MatchString(cause) {
			failure.Status = daemon.TimedOut
		}
		break
	}
	return failure
}

// resolved is the derivation that Nix has built in place of a target, if cause is why it failed. A
// derivation that depends on a floating output is built as another one of the same name, in which
// that output's path is known. Nix before 2.34 tells no more of it than the status.
func resolved(failure daemon.Result, cause string) (target daemon.DerivedPath, ok bool) {
	if failure.Message != "" || failure.Status == daemon.MiscFailure || failure.Status == daemon.DependencyFailed {
		return target, false
	}
	drv, err := store.ParsePath(derivationPath.FindString(cause))
	if err != nil || drv.Name() != failure.Target.Path().Name() {
		return target, false
	}
	target, err = daemon.Outputs(drv)
	return target, err == nil
}

// culprit is the derivation that a failure is about. It is a dependency where Nix names one.
func culprit(failure daemon.Result) store.Path {
	if drv := derivationPath.FindString(failure.Message); drv != "" && failure.Status == daemon.DependencyFailed {
		return store.Path(drv)
	}
	return failure.Target.Path()
}
