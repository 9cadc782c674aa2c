package nixstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// endings are exit codes that shells give for what they ran, and numbers of signals, by which
// others end a process. The kernel does where memory is short.
var endings = map[string]string{"9": "SIGKILL", "15": "SIGTERM", "137": "SIGKILL", "143": "SIGTERM"}

// A buildError says why something can't be built or downloaded, where the package or its origin is
// at fault.
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

// explain logs a *buildError and returns what clients are told. Other errors stay.
func explain(err error) error {
	failed := (*buildError)(nil)
	if !errors.As(err, &failed) {
		return err
	}
	logrus.Warn("nix: ", failed)
	return failed.public()
}

// public is what clients are told.
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
	if e.status == daemon.TimedOut || e.interruption() != "" {
		metrics.Killed.Inc(metrics.KilledBuild)
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
	return &status.Error{Kind: kind, Message: message, Failed: kind == status.Denied}
}

// withheld tells whether it was not even built, because a binary cache has it and doesn't give it.
func (e *buildError) withheld() bool { return wordsSubstitutes.MatchString(e.reason) }

// machine is the kind of machine that a derivation needs and nobody has, such as "for
// riscv64-linux" or "with kvm".
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

// interruption tells what ended a build from outside. It is empty if nothing did.
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

// outcome continues a sentence that begins with "building NAME".
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

// withoutPaths is a text of Nix's with names in the place of store paths, and without other paths,
// which are the host's.
func withoutPaths(text string) string {
	return hostPath.ReplaceAllString(storePrefix.ReplaceAllString(buildRoot.ReplaceAllString(text, ""), ""), "$1…")
}
