package eval

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// An evalStore is what the evaluating process takes for the Nix store.
type evalStore struct {
	uri        string
	write      bool   // whether derivations are written to it
	cache      string // a directory for what Nix remembers elsewhere
	fetches    bool   // whether the set may fetch what Options.AllowedURIs allows
	persistent bool   // whether it is there the next time
	flake      bool   // whether the set is a flake
	reads      bool   // whether the set may read what was built
	apart      bool   // whether its user is another than the one for sets that clients choose
}

// A session is the work of one call on one package set. It takes several processes if need be,
// within one budget of processor time.
type session struct {
	*Evaluator
	store     evalStore
	source    Source
	path      string // of the set, without symbolic links
	hostPaths *strings.Replacer
	system    string
	walk      bool
	cpu       time.Duration // left
	longer    bool          // the time for fetching was added
	overgrown bool          // the store took more room than it may
}

// newSession resolves the links of the set's paths: Nix compares resolved paths with those that it
// was allowed.
func (e *Evaluator) newSession(source Source, system string, nixStore evalStore, walk bool) (*session, error) {
	path, err := filepath.EvalSymlinks(source.Path)
	if err != nil {
		return nil, err
	}
	nixPath := make(map[string]string, len(source.NixPath))
	for name, other := range source.NixPath {
		if nixPath[name], err = filepath.EvalSymlinks(other); err != nil {
			return nil, err
		}
	}
	source.NixPath = nixPath
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is not absolute", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return &session{
		Evaluator: e,
		store:     nixStore,
		source:    source,
		path:      path,
		hostPaths: hidePaths(source, path, !info.IsDir(), nixStore.cache),
		system:    system,
		walk:      walk,
		cpu:       e.options.CPU,
	}, nil
}

// findAll evaluates names, without repetition, until each has a result.
func (s *session) findAll(ctx context.Context, names []string, results map[string]Result) error {
	for len(names) > 0 {
		if s.cpu <= 0 {
			for _, name := range names {
				results[name] = failed(
					Limit, "the package set's evaluation was out of processor time before it came to %s", name,
				)
			}
			return nil
		}
		end, err := s.run(ctx, names, false)
		if err != nil {
			return err
		}
		if fault := s.fault(end); fault != nil {
			return fault
		}
		for i, report := range end.reports {
			if i >= len(names) || report.Name != names[i] {
				return fmt.Errorf("evaluating %q: Nix answers for %q", names, report.Name)
			}
			results[report.Name] = report.result()
		}
		names = names[len(end.reports):]
		if len(names) == 0 {
			return nil
		}
		if end.well {
			return fmt.Errorf("evaluating %q: %w", names, errNoAnswer)
		}
		results[names[0]] = s.culprit(names[0], end)
		names = names[1:]
	}
	return nil
}

// culprit is the result of the name that ended an evaluation.
func (s *session) culprit(name string, end *ending) Result {
	kind := Crashes
	switch {
	case end.limit:
		kind = Limit
	case s.store.fetches && classify(end.message) == Unfetched:
		kind = Unfetched
	}
	return Result{Failure: &Failure{
		Kind:      kind,
		Message:   explainNeeds(name, end.message),
		Transient: s.store.fetches || isFetch(end.message),
		needs:     neededDerivation(end.message),
	}}
}

// fault tells what is wrong with the package set as a whole, nil if nothing is.
func (s *session) fault(end *ending) error {
	switch end.set {
	case "set":
		return nil
	case "":
		if fault := s.setupFault(end); fault != nil {
			return fault
		}
		return &SourceError{
			Message:   explainNeeds("it", end.message),
			Limit:     end.limit,
			Unfetched: s.store.fetches && classify(end.message) == Unfetched,
			needs:     neededDerivation(end.message),
		}
	}
	return &SourceError{Message: fmt.Sprintf("it is a %s, not an attribute set of packages", typeName(end.set))}
}

// noConfig is part of what packages.nix throws if a config was chosen and the set takes none.
const noConfig = "takes no argument config"

// newerNix and newerNixFeature match what nixpkgs says if it is too new for this Nix, before and
// since August 2025. It does not always name a version.
var (
	newerNix = regexp.MustCompile(
		`requires (?:Nix >= ([0-9.]*[0-9])|an implementation of Nix with the following features)`,
	)
	newerNixFeature = regexp.MustCompile("(?m)`builtins.nixVersion` reports at least ([0-9.]*[0-9])")
)

// setupFault tells what the operator has to mend, if the evaluation ended before it came to a set;
// nil if there is nothing.
func (s *session) setupFault(end *ending) error {
	if strings.Contains(end.message, noConfig) {
		return &SourceError{Message: end.message, Setup: true}
	}
	needs := newerNix.FindStringSubmatch(end.message)
	if needs == nil {
		return nil
	}
	version := needs[1]
	if feature := newerNixFeature.FindStringSubmatch(end.message); feature != nil {
		version = feature[1]
	}
	if version == "" {
		return &SourceError{Message: "it needs a newer Nix than " + s.version, Setup: true}
	}
	return &SourceError{
		Message: fmt.Sprintf("it needs Nix %s or later, and this is Nix %s", version, s.version),
		Setup:   true,
	}
}

// explainAll finds out why packages refuse to be evaluated. An error that Nix code catches has no
// text, so each package ends an evaluation of its own.
func (s *session) explainAll(ctx context.Context, results map[string]Result) error {
	for _, name := range slices.Sorted(maps.Keys(results)) {
		failure := results[name].Failure
		if failure == nil || failure.Kind != Throws || s.cpu <= 0 {
			continue
		}
		end, err := s.run(ctx, []string{name}, true)
		if err != nil {
			return err
		}
		if end.well || end.limit || end.message == "" {
			continue
		}
		failure.Kind, failure.Message = classify(end.message), explainNeeds(name, end.message)
		failure.needs = neededDerivation(end.message)
		switch failure.Kind {
		case Unfree, Broken, Insecure, Unsupported:
			failure.Message = shortRefusal(failure.Kind, end.message, end.config)
		case Throws:
			failure.Message = asked(failure.Message)
		}
		failure.Transient = s.store.fetches && (failure.Kind == Throws || failure.Kind == Unfetched)
	}
	return nil
}

// mayFetch adds the time for fetching to the session's, once.
func (s *session) mayFetch() {
	if !s.longer {
		s.longer = true
		s.cpu += s.options.FetchTime
	}
}

// run evaluates names in one process. It does so once more if the time was too short for fetching.
// It fails only if that is the fault of Nix or of the host.
func (s *session) run(ctx context.Context, names []string, rethrow bool) (*ending, error) {
	end, err := s.start(ctx, names, rethrow)
	if err == nil && end.cpu && end.fetches && !s.longer {
		s.cpu = s.options.CPU
		s.mayFetch()
		return s.start(ctx, names, rethrow)
	}
	return end, err
}
