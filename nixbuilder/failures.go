package nixbuilder

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// logLines is how much of the log of a failed build its message has.
const logLines = 10

// How Nix words what no field of its answers tells, with the versions that do. All else is told by
// statuses.
var (
	// 2.8 to 2.26 begin the line with "builder for '…'"; 2.34 has "Cannot build '…'." and "Reason:
	// builder failed …" on the next line.
	wordsBuilder = regexp.MustCompile(
		`(?:builder(?: for '[^']*')?) failed (with exit code (\d+)|due to signal (\d+) \([^)]*\))`,
	)
	// All, after that.
	wordsDiskFull = regexp.MustCompile(`(?m)^\s*note: build failure may have been caused by lack of free disk space`)
	// All, in the log of Nix's own fetcher, whose other faults go on with the status of HTTP.
	wordsUnreached = regexp.MustCompile(`unable to download '[^']*'`)
	wordsGone      = regexp.MustCompile(`HTTP error 4(?:0[134]|10)\b`)
	// 2.8 to 2.26 fail the whole operation with it.
	wordsMachine = regexp.MustCompile(`^a '([a-z0-9_-]+)' with features \{([^}]*)\} is required to build `)
	// 2.34 has it in the result of an input that is rejected.
	wordsPlatform = regexp.MustCompile(`(?m)^Required system: '([a-z0-9_-]+)'`)
	wordsFeatures = regexp.MustCompile(`(?m)^Required features: \{([^}]*)\}`)
	// All; before 2.34 both fail the whole operation, and the second still does.
	wordsCycle = regexp.MustCompile(
		`cycle detected in build of '[^']*' in the references of output '([^']*)' from output '([^']*)'`,
	)
	wordsFileType = regexp.MustCompile(`^file ['"][^'"]*['"] has an unsupported type`)
	// All fail the whole operation with them; 2.34 also what asks what there is to do.
	wordsNoSandbox = regexp.MustCompile(`^derivation '[^']*' has '__noChroot' set`)
	wordsImpure    = regexp.MustCompile(`^derivation '[^']*' requested impure path '([^']*)'`)
	wordsGraph     = regexp.MustCompile(`'exportReferencesGraph'|^path '[^']*' is not in the Nix store$`)
	wordsLongName  = regexp.MustCompile(`: File name too long$`)
	// All, in the results of outputs that are rejected. Of output that refers to store paths and
	// has a known hash, 2.34 may say that the hash is another.
	wordsHash = regexp.MustCompile(
		`hash mismatch in fixed-output derivation '[^']*':\s+specified:\s+(\S+)\s+got:\s+(\S+)`,
	)
	wordsNoOutput   = regexp.MustCompile(`failed to produce output path for output '([^']*)'`)
	wordsReferences = regexp.MustCompile(
		`output '[^']*' is not allowed to refer to the following paths:((?:\s+/nix/store/\S+)+)`,
	)
	wordsFlat = regexp.MustCompile(
		`should be a non-executable regular file since recursive hashing is not enabled`,
	)
	wordsRefers = regexp.MustCompile(
		`^(?:fixed-output derivations must not reference store paths|illegal path references in fixed-output derivation)`,
	)
	// All, in the log. A build on a remote builder is said to have failed there, and a helper of
	// Nix's to have failed here.
	wordsRemote = regexp.MustCompile(`^error: (?:build of|building of|builder for|Cannot build) '/nix/store/`)
	// All, in results and in the log, of what binary caches have and don't give.
	wordsSubstitutes = regexp.MustCompile(`^(?:error: )?some substitutes for the outputs of derivation '/nix/store/`)
	// All, in the log, of a path in a binary cache; 2.8 ends it with "is not signed by …".
	wordsUntrusted = regexp.MustCompile(
		`^warning: (?:ignoring|the) substitute for '(/nix/store/[^']*)' from '([^']*)',? (?:as it's|is) not signed by any of the keys`,
	)
	// All, in the log, of an archive that a binary cache has lost, or that is not what it says.
	// 2.34 warns of the first.
	wordsLostArchive = regexp.MustCompile(`^(?:error|warning): file '[^']*' does not exist in binary cache`)
	wordsBadArchive  = regexp.MustCompile(
		`^error: (?:Failed to (?:open|read) archive|NAR for '|bad archive|non-zero padding|(?:hash|size) mismatch importing path )`,
	)
	// All, in the log, of a cache that does not answer; before 2.34, it is a warning of an error
	// while it is tried again.
	wordsNoAnswer = regexp.MustCompile(`^(?:warning: )?(?:error: )?unable to download '[^']*(?:\.narinfo|/nar/[^']*)'`)
	// All, in the log, of a cache that the daemon leaves out from then on.
	wordsLeftOut = regexp.MustCompile(
		`^warning: (?:unable to download '([^']*)/nix-cache-info'|'([^']*)' does not appear to be a binary cache)`,
	)
	// All, in the log, of remote builders that can't be reached, or went away; with ssh-ng, from
	// 2.26 or earlier on, the daemon there did.
	wordsUnusable = regexp.MustCompile(`^cannot build on '`)
	wordsLost     = regexp.MustCompile(
		`^error: (?:unexpected end-of-file|writing to file: Broken pipe|Nix daemon disconnected unexpectedly)`,
	)
	wordsTimedOut = regexp.MustCompile(`timed out after \d+ seconds`)
	// 2.8 writes an error of the process that becomes a builder into its log in a form for
	// programs.
	wordsSerialized = regexp.MustCompile(`^ErrorError.??([a-z]+ )`)

	derivationPath = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-[^/'" ]+?\.drv\b`)
	storePath      = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-[^/'" ]+`)
	storePrefix    = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-`)

	// Where builds are done on the host, and with what they see as their root directory. Newer
	// versions keep both in places of their own.
	buildDir  = regexp.MustCompile(`(?:/[^\s'":;/]+)*/nix-(?:build-[^\s'":;/]+\.drv-\d+|\d+-\d+)(?:/build)?\b`)
	buildRoot = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-[^\s'"/]+\.drv\.chroot(?:/root)?`)
	hostPath  = regexp.MustCompile(`(^|[\s'"(=])/[^\s'"]+`)
)

// Exit codes of shells about what they ran, and the numbers of signals that whoever wants a process
// to end sends it: the kernel, where memory is short.
var endings = map[string]string{"9": "SIGKILL", "15": "SIGTERM", "137": "SIGKILL", "143": "SIGTERM"}

// A buildError is why something can't be built or downloaded, for which what is built has to
// answer, or where it comes from.
type buildError struct {
	path   store.Path // a derivation, or what was to be downloaded
	status daemon.Status
	reason string   // as Nix says it, in one or more lines
	tail   []string // the last lines of its builder's log
	caches string   // what else there is to be known of binary caches, on one line
	absent bool     // one of them is left out, as it did not answer
	silent bool     // one of them has it and did not answer

	unreached bool // Nix did not get an answer to what it fetches
}

// Error is for the log.
func (e *buildError) Error() string {
	text := fmt.Sprintf("making %s: %s", cmp.Or(string(e.path), "an image"), e.status)
	if e.reason != "" {
		text += ": " + strings.ReplaceAll(e.reason, "\n", " | ")
	}
	return text
}

// explain makes of a *buildError what clients are told, and has it logged. Other errors stay.
func explain(err error) error {
	failed := (*buildError)(nil)
	if !errors.As(err, &failed) {
		return err
	}
	logrus.Warn("nix: ", failed)
	return failed.public()
}

// public is for clients.
func (e *buildError) public() *status.Error {
	name := "this image"
	if e.path != "" {
		name = strings.TrimSuffix(e.path.Name(), ".drv")
	}
	if e.silent {
		return status.Errorf(
			status.Unavailable, "fetching %s failed: a binary cache that has it does not answer as it should%s",
			name, e.caches,
		)
	}
	if e.status == daemon.NoSubstituters {
		return status.Errorf(status.Denied, "no binary cache has %s%s", name, e.caches)
	}
	kind := status.Denied
	machine := e.machine()
	if e.absent && (machine != "" || e.status == daemon.TimedOut) {
		kind = status.Unavailable
	}
	if machine != "" {
		return status.Errorf(
			kind,
			"building %s needs a machine %s: give Nix a binary cache that has it, a remote builder, or emulation%s",
			name, machine, e.caches,
		)
	}
	doing := "building"
	switch {
	case e.interruption() != "":
		kind = status.Interrupted
	case e.unreached, e.withheld():
		kind, doing = status.Unavailable, "fetching"
	case e.status == daemon.TransientFailure: // Nix's word for what has the network
		doing = "fetching"
	}
	message := fmt.Sprintf("%s %s %s%s", doing, name, e.outcome(), e.caches)
	if len(e.tail) > 0 {
		message += "; its last lines: " + buildDir.ReplaceAllString(strings.Join(e.tail, " | "), "/build")
		message += "; on the registry's host, `nix-store --read-log " + string(e.path) + "` has the whole log"
	}
	return &status.Error{Kind: kind, Message: message}
}

// withheld tells whether it was not even built because a binary cache has it and doesn't give it.
func (e *buildError) withheld() bool { return wordsSubstitutes.MatchString(e.reason) }

// machine is what a derivation needs and no machine has, such as "for riscv64-linux" or "with kvm".
func (e *buildError) machine() string {
	if m := wordsMachine.FindStringSubmatch(e.reason); m != nil {
		return strings.TrimSuffix("for "+m[1]+" with "+m[2], " with ")
	}
	if e.status != daemon.InputRejected {
		return ""
	}
	var needs []string
	if m := wordsPlatform.FindStringSubmatch(e.reason); m != nil {
		needs = append(needs, "for "+m[1])
	}
	if m := wordsFeatures.FindStringSubmatch(e.reason); m != nil && m[1] != "" {
		needs = append(needs, "with "+m[1])
	}
	return strings.Join(needs, " ")
}

// interruption is what ended a build from outside, empty if nothing did.
func (e *buildError) interruption() string {
	if e.status == daemon.TimedOut || e.status == daemon.LogLimitExceeded { // Nix itself ended it
		return ""
	}
	if wordsDiskFull.MatchString(e.reason) {
		return "failed for want of disk space"
	}
	if m := wordsBuilder.FindStringSubmatch(e.reason); m != nil && endings[m[2]+m[3]] != "" {
		return "was ended by " + endings[m[2]+m[3]] + ", as where memory is short"
	}
	return ""
}

// outcome goes on where "building NAME" ends.
func (e *buildError) outcome() string {
	if e.status == daemon.TimedOut {
		return "took longer than this registry allows"
	}
	if why := e.interruption(); why != "" {
		return why + ": ask again later"
	}
	if m := wordsBuilder.FindStringSubmatch(e.reason); m != nil {
		return "failed " + m[1]
	}
	if m := wordsHash.FindStringSubmatch(e.reason); m != nil {
		return fmt.Sprintf("failed: what it fetches has the hash %s, and the package set says %s", m[2], m[1])
	}
	if e.withheld() {
		return "failed: a binary cache that has it doesn't give it"
	}
	if m := wordsNoOutput.FindStringSubmatch(e.reason); m != nil {
		return "failed: its builder ended well, but made no output " + m[1]
	}
	if m := wordsReferences.FindStringSubmatch(e.reason); m != nil {
		paths := slices.Sorted(slices.Values(strings.Fields(storePrefix.ReplaceAllString(m[1], ""))))
		return "failed: its output refers to what it may not refer to: " + strings.Join(paths, ", ")
	}
	if m := wordsCycle.FindStringSubmatch(e.reason); m != nil {
		return fmt.Sprintf("failed: its outputs %s and %s refer to each other", min(m[1], m[2]), max(m[1], m[2]))
	}
	if wordsFileType.MatchString(e.reason) {
		return "failed: its output has something that is neither a file, a directory nor a symbolic link"
	}
	if wordsFlat.MatchString(e.reason) {
		return "failed: the package set says that its output is a file of a known hash, and it made a directory or a program"
	}
	if wordsRefers.MatchString(e.reason) {
		return "failed: its output has a known hash, and may not refer to store paths, but does"
	}
	if wordsNoSandbox.MatchString(e.reason) {
		return "failed: it asks to be built outside of Nix's sandbox (__noChroot), which this registry's Nix does not do"
	}
	if m := wordsImpure.FindStringSubmatch(e.reason); m != nil {
		return fmt.Sprintf(
			"failed: it asks for %s of the host (__impureHostDeps), which this registry's Nix does not give",
			m[1],
		)
	}
	if wordsLongName.MatchString(e.reason) {
		return "failed: a file that it makes has too long a name"
	}
	if first, _, _ := strings.Cut(e.reason, "\n"); first != "" {
		return "failed: " + withoutPaths(first)
	}
	return "failed: " + e.status.String()
}

// withoutPaths is a text of Nix's in which store paths are names, and other paths, which are the
// host's, are left out.
func withoutPaths(text string) string {
	return hostPath.ReplaceAllString(storePrefix.ReplaceAllString(buildRoot.ReplaceAllString(text, ""), ""), "$1…")
}

// remarks are what Nix says while it builds. Why a build on a remote builder failed is nowhere
// else: the result is then that Nix's own helper did. Each list has logLines entries at most.
type remarks struct {
	tails    map[store.Path][]string // the last lines of each builder's log
	failed   []string                // builds that failed elsewhere, and downloads for builds
	reason   bool                    // the last of them may go on with the next line
	unusable []string                // the first remote builders that could not be reached, or have nothing to build with
	lost     []string                // what was said of those that went away in the middle of a build

	untrusted []substitute // the first paths that binary caches have, and no trusted key has signed
	archives  []string     // what was said of archives that are gone or damaged
	unheard   []string     // what was said of binary caches that did not answer
	leftOut   []string     // the URLs of those that are not asked again
	told      bool         // to the operator
}

// A substitute is a store path in a binary cache, by the cache's URL without a password.
type substitute struct {
	path  store.Path
	cache string
}

func newRemarks() *remarks { return &remarks{tails: make(map[store.Path][]string)} }

func (r *remarks) add(line daemon.LogLine) {
	if line.Drv != "" {
		text := wordsSerialized.ReplaceAllString(line.Text, "$1")
		if text == "" {
			return
		}
		tail := append(r.tails[line.Drv], text)
		r.tails[line.Drv] = tail[max(0, len(tail)-logLines):]
		return
	}
	if r.reason {
		r.reason = false
		if reason := strings.TrimSpace(line.Text); strings.HasPrefix(reason, "Reason: ") {
			r.failed[len(r.failed)-1] += " " + reason
			return
		}
	}
	r.addOfCaches(line.Text)
	switch text := line.Text; {
	case wordsRemote.MatchString(text), wordsSubstitutes.MatchString(text):
		if len(r.failed) < logLines {
			r.failed = append(r.failed, text)
			r.reason = true
		}
	case wordsUnusable.MatchString(text) && len(r.unusable) < logLines:
		r.unusable = append(r.unusable, text)
	case wordsLost.MatchString(text) && len(r.lost) < logLines:
		r.lost = append(r.lost, text)
	}
}

// addOfCaches takes a line of the daemon that is about binary caches.
func (r *remarks) addOfCaches(text string) {
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
		if len(r.untrusted) < logLines && !slices.Contains(r.untrusted, found) {
			r.untrusted = append(r.untrusted, found)
		}
	case wordsLostArchive.MatchString(text), wordsBadArchive.MatchString(text):
		note(&r.archives, text)
	case leftOut != nil:
		note(&r.leftOut, cmp.Or(leftOut[1], leftOut[2]))
		note(&r.unheard, text)
	case wordsNoAnswer.MatchString(text):
		note(&r.unheard, text)
	}
}

// damaged tells whether what can't be downloaded is gone or damaged, rather than out of reach for a
// while.
func (r *remarks) damaged() bool { return len(r.archives) > 0 && len(r.unheard) == 0 }

// aside is what clients are told of binary caches after the reason for a failure, empty if nothing
// is.
func (r *remarks) aside() string {
	var text strings.Builder
	if n := len(r.untrusted); n > 0 {
		more := ""
		if n > 1 {
			more = " and others"
		}
		fmt.Fprintf(
			&text, "; a binary cache has %s%s, but no key that this registry trusts has signed that",
			r.untrusted[0].path.Name(), more,
		)
	}
	if len(r.archives) > 0 {
		text.WriteString("; a binary cache has it, or what it is made of, but the archive is gone or damaged")
	}
	if len(r.leftOut) > 0 {
		text.WriteString("; a binary cache does not answer at the moment")
	}
	return text.String()
}

// failure is what results, or the error that there is instead, come to: nil, a *buildError about
// the cause of all that failed, or an error that is the operator's.
func (r *remarks) failure(results []daemon.Result, err error) error {
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
			failures = append(failures, r.complete(result))
		}
	}
	if len(failures) > 0 {
		cause := slices.MinFunc(failures, func(a, b daemon.Result) int { return blame(a) - blame(b) })
		failed = &buildError{path: culprit(cause), status: cause.Status, reason: cause.Message}
	}
	if failed == nil {
		return nil
	}
	failed.tail = r.tails[failed.path]
	log := strings.Join(failed.tail, "\n")
	failed.unreached = failed.status == daemon.TransientFailure && wordsUnreached.MatchString(log) &&
		!wordsGone.MatchString(log)
	failed.caches, failed.absent = r.aside(), len(r.leftOut) > 0
	failed.silent = !strings.HasSuffix(string(failed.path), ".drv") && len(r.unheard) > len(r.leftOut)
	if machine := failed.machine(); machine != "" && len(r.unusable) > 0 { // it may be there when somebody asks again
		return fmt.Errorf(
			"building %s, which needs a machine %s: %s", failed.path.Name(), machine,
			strings.Join(r.unusable, "; "),
		)
	}
	if len(r.lost) > 0 {
		return fmt.Errorf("building %s: lost the remote builder: %s", failed.path.Name(), strings.Join(r.lost, "; "))
	}
	return failed
}

// wholeOperation is what a derivation has to answer for although it ended the whole operation, nil
// for other errors.
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

// blame orders failures: those that name a cause come before those that came of it.
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

// complete puts before the message of a failure what was said of its cause elsewhere.
func (r *remarks) complete(failure daemon.Result) daemon.Result {
	for _, cause := range r.failed {
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

// resolved is what Nix has built in place of a target, if cause is why that failed. What is made of
// something that floats is built as another derivation of that name, as what it is made of is known
// by then. Nix before 2.34 says no more of that than the status.
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

// culprit is the derivation that a failure is about: a dependency's, where Nix names one.
func culprit(failure daemon.Result) store.Path {
	if drv := derivationPath.FindString(failure.Message); drv != "" && failure.Status == daemon.DependencyFailed {
		return store.Path(drv)
	}
	return failure.Target.Path()
}
