package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Status tells how the work for one target ended. The values are Nix's.
type Status uint64

// These are all that Nix 2.8 knows. Some are not sent any more, or not yet.
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
	// Message is Nix's own text about a failure, in one or more lines, with paths of the host. It
	// can be empty.
	Message string
	// Outputs are, after a success, the store paths of outputs by name, as far as Nix tells: at
	// least of those that were asked for. They are valid.
	Outputs map[string]store.Path
}

// Build builds or fetches targets that are not in the store. It passes every line that builders
// write, and the daemon's warnings, to onLog as they come; onLog may be nil, and delays the builds
// while it runs. There is one result for each target, in the order of targets. A build that fails
// is a result, not an error.
//
// A failure ends the other builds under way, unless the setting keep-going is true. Their results
// are miscellaneous failures without a message; from Nix 2.34 on, the daemon itself sends none for
// them.
func (c *Conn) Build(ctx context.Context, targets []DerivedPath, onLog func(LogLine)) (results []Result, err error) {
	const modeNormal = 0
	err = c.do(ctx, "building", c.silence, func() error {
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
			answer.Target = t
			results = append(results, answer)
		}
		return c.r.err
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// buildResults reads results by their target's key. Which outputs a result names depends on the
// version of Nix.
func (r *reader) buildResults() map[key]Result {
	results := map[key]Result{}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		path, _, built := strings.Cut(r.text(keepErrorBytes), "!")
		result := Result{Status: Status(r.uint())}
		result.Message = strings.TrimSpace(plain(r.text(keepErrorBytes)))
		r.uint() // times built
		r.uint() // whether it is not deterministic
		r.uint() // start time
		r.uint() // stop time
		result.Outputs = r.realisations()
		results[key{store.Path(path), built}] = result
	}
	return results
}

// realisations reads the store paths of outputs, by the outputs' names. They come as
// HASH-OF-THE-DERIVATION!OUTPUT with JSON. It skips what it does not understand, since most
// derivations tell their outputs' paths themselves.
func (r *reader) realisations() map[string]store.Path {
	outputs := map[string]store.Path{}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		_, output, _ := strings.Cut(r.text(keepPathBytes), "!")
		text := r.text(keepRealisationBytes)
		var realisation struct{ OutPath string }
		if json.Unmarshal([]byte(text), &realisation) != nil || !isOutputName(output) {
			continue
		}
		if path, err := store.ParsePath(store.Dir + "/" + realisation.OutPath); err == nil {
			outputs[output] = path
		}
	}
	return outputs
}
