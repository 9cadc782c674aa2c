package daemon

import (
	"context"
	"fmt"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Status is how the work for one target ended. The values are Nix's.
type Status uint64

// All that Nix 2.8 knows. Some are no longer, or not yet, sent.
const (
	Built Status = iota
	Substituted
	AlreadyValid
	PermanentFailure
	InputRejected
	OutputRejected
	TransientFailure
	CachedFailure
	TimedOut
	MiscFailure
	DependencyFailed
	LogLimitExceeded
	NotDeterministic
	ResolvesToAlreadyValid
	NoSubstituters
)

// Success says whether the target is in the store.
func (s Status) Success() bool {
	switch s {
	case Built, Substituted, AlreadyValid, ResolvesToAlreadyValid:
		return true
	}
	return false
}

func (s Status) String() string {
	names := [...]string{
		Built:                  "built",
		Substituted:            "substituted",
		AlreadyValid:           "already valid",
		PermanentFailure:       "permanent failure",
		InputRejected:          "input rejected",
		OutputRejected:         "output rejected",
		TransientFailure:       "transient failure",
		CachedFailure:          "cached failure",
		TimedOut:               "timed out",
		MiscFailure:            "miscellaneous failure",
		DependencyFailed:       "dependency failed",
		LogLimitExceeded:       "log limit exceeded",
		NotDeterministic:       "not deterministic",
		ResolvesToAlreadyValid: "resolves to already valid",
		NoSubstituters:         "no substituters",
	}
	if s < Status(len(names)) {
		return names[s]
	}
	return fmt.Sprintf("status %d", uint64(s))
}

// Result is what became of one target.
type Result struct {
	Target DerivedPath
	Status Status
	// Message is Nix's own text about a failure, in one or more lines, with paths of the host. It can be empty.
	Message string
}

// Build builds or fetches targets that are not in the store, and gives every line of the builders' output, and the daemon's
// warnings, to onLog as it comes; onLog may be nil and holds the builds up while it runs. There is one result per
// target, in the order of targets: a build that fails is a result, not an error.
//
// A failure ends the other builds under way, whose results are then miscellaneous failures without a message (from Nix 2.34 on the daemon has none for
// them), unless the setting keep-going is true.
func (c *Conn) Build(ctx context.Context, targets []DerivedPath, onLog func(LogLine)) (results []Result, err error) {
	const modeNormal = 0
	err = c.do(ctx, "building", func() error {
		c.w.uint(opBuildPathsWithResults)
		c.w.targets(merge(targets))
		c.w.uint(modeNormal)
		if err := c.request(onLog); err != nil {
			return err
		}
		answers := c.r.buildResults()
		failed := false
		for _, answer := range answers {
			failed = failed || !answer.Status.Success()
		}
		for _, t := range targets {
			answer, ok := answers[t.key()]
			switch {
			case ok:
			case failed:
				answer.Status = MiscFailure
			default:
				c.r.fail(fmt.Errorf("no result for %s", t))
			}
			results = append(results, Result{t, answer.Status, answer.Message})
		}
		return c.r.err
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// buildResults reads results by their target's key. Which outputs a result names is up to the version of Nix.
func (r *reader) buildResults() map[key]Result {
	results := map[key]Result{}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		path, _, built := strings.Cut(r.text(keepErrorBytes), "!")
		status := Status(r.uint())
		message := strings.TrimSpace(plain(r.text(keepErrorBytes)))
		r.uint() // times built
		r.uint() // whether it is not deterministic
		r.uint() // start time
		r.uint() // stop time
		for n := r.count(); n > 0 && r.err == nil; n-- {
			r.skipText() // output's name
			r.skipText() // output's path
		}
		results[key{store.Path(path), built}] = Result{Status: status, Message: message}
	}
	return results
}
