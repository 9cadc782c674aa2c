package nixbuilder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	prepareimage "github.com/nixery-registry/nixery-registry/prepare-image"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A chosen package is one that an image has.
type chosen struct {
	name  string // as it was asked for
	asked bool   // by the client, not by the operator's shell and include
	eval.Package
}

// attribute is the package's path in the package set, dotted, with the output that was named.
func (c chosen) attribute() string {
	if c.Output != "" {
		return strings.Join(c.Attr, ".") + "." + c.Output
	}
	return strings.Join(c.Attr, ".")
}

// installed are the store paths of the outputs that a user of the package gets, in the package's
// order.
func (c chosen) installed() []store.Path {
	paths := make([]store.Path, 0, len(c.OutputsToInstall))
	for _, output := range c.OutputsToInstall {
		paths = append(paths, c.Outputs[output])
	}
	return paths
}

// packages are sorted by attribute path, and none installs but outputs that another one does.
type packages []chosen

// outputs are the store paths that an image of the packages installs, sorted.
func (p packages) outputs() []store.Path {
	var paths []store.Path
	for _, c := range p {
		paths = append(paths, c.installed()...)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// wanted are the names of a request's packages and of those that come with them.
func (b *Builder) wanted(request names.Request) []string {
	wanted := slices.Concat(request.Packages, b.options.Include)
	if request.Shell {
		wanted = append(wanted, b.options.Shell...)
	}
	return wanted
}

// wantedFirst are the names of several requests together, and of what is in every image or every
// shell, sorted.
func (b *Builder) wantedFirst(requests []names.Request) []string {
	wanted := b.wanted(names.Request{Shell: true})
	for _, request := range requests {
		wanted = append(wanted, request.Packages...)
	}
	slices.Sort(wanted)
	return slices.Compact(wanted)
}

// Prepare finds the packages of requests, and those that are in every image, before they are asked
// for. Packages that can't be had are no failure. The error of a set that can't be used is what
// clients are told.
func (b *Builder) Prepare(ctx context.Context, pinned source.Pinned, requests []names.Request) error {
	release, err := b.source.Hold(ctx, pinned)
	if err != nil {
		return err
	}
	defer release()
	wanted := b.wantedFirst(requests)
	for _, platform := range b.options.Platforms {
		system, err := SystemOf(platform)
		if err != nil {
			return err
		}
		_, _, err = b.find(ctx, pinned, false, system, wanted)
		if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
			return faultOf(pinned, fault)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// resolve finds the packages of a request, in one evaluation unless it has very many, and asks the
// policy about them.
func (b *Builder) resolve(
	ctx context.Context, request names.Request, pinned source.Pinned, byClient bool, system string,
) (packages, error) {
	results, denied, err := b.find(ctx, pinned, byClient, system, b.wanted(request))
	if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
		return nil, faultOf(pinned, fault)
	}
	if err != nil {
		return nil, err
	}
	if err := refusal(request.Packages, results, pinned); err != nil {
		return nil, err
	}
	var found packages
	for _, name := range request.Packages {
		c := chosen{name: name, asked: true, Package: *results[name].Package}
		if c.denied(b.options.Policy, denied) {
			return nil, status.Errorf(status.Denied, "%s is denied by the policy of this registry", name)
		}
		found = append(found, c)
	}
	if request.Shell {
		for _, name := range b.options.Shell {
			if failure := results[name].Failure; failure != nil {
				return nil, status.Errorf(status.Denied, "the meta-package %s needs %s: %s", names.Shell, name, failure.Message)
			}
			found = append(found, chosen{name: name, Package: *results[name].Package})
		}
	}
	for _, name := range b.options.Include {
		switch failure := results[name].Failure; {
		case failure == nil:
			found = append(found, chosen{name: name, Package: *results[name].Package})
		case failure.Kind != eval.NotFound:
			return nil, status.Errorf(status.Denied, "every image includes %s: %s", name, failure.Message)
		}
	}
	for _, p := range found {
		if p.System != system && p.System != "builtin" {
			return nil, status.Errorf(
				status.Denied, "%s is a package for %s, the package set has none for %s", p.name, p.System, system,
			)
		}
	}
	return found.unique(), nil
}

// unique sorts the packages by attribute path and leaves out what is there under another name: what
// installs no output that another one of the same derivation does not. What a client asked for
// stays that.
func (p packages) unique() packages {
	byPath := func(a, b chosen) int {
		return cmp.Or(
			slices.Compare(a.Attr, b.Attr), strings.Compare(a.Output, b.Output),
			strings.Compare(a.name, b.name),
		)
	}
	slices.SortStableFunc(p, func(a, b chosen) int {
		return cmp.Or(cmp.Compare(len(b.OutputsToInstall), len(a.OutputsToInstall)), byPath(a, b))
	})
	var unique packages
	for _, c := range p {
		covers := func(other chosen) bool {
			return other.Derivation == c.Derivation &&
				!slices.ContainsFunc(
					c.OutputsToInstall,
					func(output string) bool { return !slices.Contains(other.OutputsToInstall, output) },
				)
		}
		if i := slices.IndexFunc(unique, covers); i < 0 {
			unique = append(unique, c)
		} else if c.asked {
			unique[i].asked = true
		}
	}
	slices.SortStableFunc(unique, byPath)
	return unique
}

// described are the packages as an image's documents tell of them.
func (p packages) described() []image.Package {
	described := make([]image.Package, len(p))
	for i, c := range p {
		described[i] = image.Package{
			Name: c.attribute(), Version: c.Version, Paths: c.installed(), Derivation: c.Derivation,
			Asked: c.asked, MainProgram: c.MainProgram, Pname: c.Pname, Settings: (*image.Settings)(c.Image),
		}
	}
	return described
}

// refusal says all that is wrong with the names of a request: first what does not exist.
func refusal(requested []string, results map[string]eval.Result, pinned source.Pinned) error {
	var missing, refused []string
	kind := status.Denied
	for _, name := range requested {
		switch failure := results[name].Failure; {
		case failure == nil:
		case failure.Kind == eval.NotFound:
			message := failure.Message
			if len(failure.NearMisses) > 0 {
				message += " (did you mean " + strings.Join(failure.NearMisses, ", ") + "?)"
			}
			missing = append(missing, message)
		default:
			if failure.Kind == eval.Unfetched {
				kind = status.Unavailable
			}
			message := failure.Message + hint(pinned, failure.Message)
			if len(requested) > 1 && !strings.Contains(message, name) {
				message = name + ": " + message
			}
			refused = append(refused, message)
		}
	}
	switch {
	case len(missing) > 0:
		return status.Errorf(status.NotFound, "%s", strings.Join(missing, "; "))
	case len(refused) > 0:
		return status.Errorf(kind, "%s", strings.Join(refused, "; "))
	}
	return nil
}

// whole evaluates something of a set, whose files nobody may touch meanwhile: what Nix says of
// files that are being removed is not true of the set.
func whole(pinned source.Pinned, evaluate func() error) error {
	before, goneBefore := pinned.Shape()
	err := evaluate()
	if after, gone := pinned.Shape(); after != before || goneBefore != nil || gone != nil {
		return fmt.Errorf(
			"evaluating %s at %s: its files in cachedir were changed or removed by somebody else",
			pinned.Name, pinned.Revision,
		)
	}
	return err
}

// sourceOf is a pinned set as it is evaluated.
func sourceOf(pinned source.Pinned) eval.Source {
	return eval.Source{
		Path:    pinned.Path,
		Commit:  pinned.Commit,
		Date:    pinned.Date,
		Shares:  pinned.Origin,
		NixPath: pinned.NixPath,
	}
}

// originOf is a pinned set as the documents of its images tell of it.
func originOf(pinned source.Pinned) image.Origin {
	return image.Origin{
		Source: pinned.Name, Revision: pinned.Revision, Date: pinned.Date, Variant: pinned.Variant,
	}
}

// faultOf is what those who ask for an image are told of a set that can't be used.
func faultOf(pinned source.Pinned, fault *eval.SourceError) error {
	kind := status.Denied
	if fault.Unfetched || fault.Setup {
		kind = status.Unavailable
	}
	return status.Errorf(kind, "%v%s", fault, hint(pinned, fault.Message))
}

// continues is what follows the beginning of a longer file name.
var continues = regexp.MustCompile(`^[A-Za-z0-9_+-]|^\.[A-Za-z0-9]`)

// hint is what to know about a failure for want of a submodule's files, or of the content of a file
// that is in git LFS; empty for other failures.
func hint(pinned source.Pinned, message string) string {
	for _, file := range pinned.Pointers {
		if i := strings.Index(message, filepath.Base(file)); i >= 0 &&
			!continues.MatchString(message[i+len(filepath.Base(file)):]) {
			return fmt.Sprintf(
				" (%s is in git LFS, which is not fetched: the package set has its pointer in the place of the content)",
				file,
			)
		}
	}
	for _, submodule := range pinned.Absent {
		if strings.Contains(message, "/"+submodule+"/") || strings.Contains(message, "/"+submodule+"'") {
			return fmt.Sprintf(" (%s is a git submodule, and packages.git.submodules is not true)", submodule)
		}
	}
	return ""
}

// quickTime is how long an evaluation may keep others waiting. Ten names of a set like nixpkgs take
// half a second.
const quickTime = 3 * time.Second

// packagesCached is how much of packages' records is in memory, in bytes. One is about 1 KB.
const packagesCached = 16 << 20

// resultFormat is part of every key of a package's record. It changes with what package eval
// believes. Records of the first were also of trees that were being removed.
const resultFormat = "2"

// A resolver remembers what names stand for. It is safe for concurrent use. A name is not evaluated
// twice at a time, unless that takes long: others then no longer wait for it, as it may be another
// name of the same request that does.
type resolver struct {
	evaluator   *eval.Evaluator
	expressions string // their hash, resultFormat, and features of Nix: results depend on how names are looked up
	records     *records.Table[eval.Result]
	lanes       *limit.Lanes  // for evaluations
	total       time.Duration // that one may take, with what is built for it
	evaluating  limit.Keyed   // by key
}

func newResolver(evaluator *eval.Evaluator, state records.State, concurrency int, total time.Duration) *resolver {
	return &resolver{
		evaluator:   evaluator,
		expressions: prepareimage.Hash() + resultFormat + evaluator.Features(),
		records:     records.NewTable[eval.Result](state, "packages", packagesCached),
		lanes:       limit.NewLanes(concurrency, quickTime),
		total:       total,
	}
}

// find returns a result for every name. Those that are not known are evaluated in their order.
// ByClient tells whether a client chose the revision.
func (r *resolver) find(
	ctx context.Context, pinned source.Pinned, byClient bool, system string, names []string,
) (map[string]eval.Result, error) {
	results := make(map[string]eval.Result, len(names))
	keys := make(map[string]string, len(names))
	wanted := make([]string, 0, len(names)) // each once
	for _, name := range names {
		if keys[name] == "" {
			keys[name] = records.Key(pinned.Revision, system, r.expressions, name)
			wanted = append(wanted, name)
		}
	}
	for {
		unknown, err := r.recorded(ctx, wanted, keys, results)
		if err != nil || len(unknown) == 0 {
			return results, err
		}
		mine, release, others := r.claim(unknown, keys)
		if len(mine) > 0 {
			err := r.lanes.Do(ctx, byClient, func(ctx context.Context) error {
				return r.evaluate(ctx, pinned, system, mine, keys, results)
			}, release)
			release()
			if err != nil {
				return nil, err
			}
		}
		for _, other := range others {
			select {
			case <-other:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
}

// recorded adds the known results of names, and returns those that have none, in their order.
func (r *resolver) recorded(
	ctx context.Context, names []string, keys map[string]string, results map[string]eval.Result,
) (unknown []string, err error) {
	var missing []string
	for _, name := range names {
		if _, ok := results[name]; !ok {
			missing = append(missing, keys[name])
		}
	}
	found, err := r.records.GetAll(ctx, missing)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if result, ok := found[keys[name]]; ok {
			results[name] = result
		} else if _, ok := results[name]; !ok {
			unknown = append(unknown, name)
		}
	}
	return unknown, nil
}

// claim divides names into those that the caller evaluates now, until it calls release, and those
// that somebody else does already.
func (r *resolver) claim(
	unknown []string, keys map[string]string,
) (mine []string, release func(), others []<-chan struct{}) {
	var releases []func()
	for _, name := range unknown {
		releaseName, other := r.evaluating.Claim(keys[name])
		switch {
		case releaseName == nil:
			others = append(others, other)
		case r.records.Cached(keys[name]): // since we looked
			releaseName()
		default:
			mine = append(mine, name)
			releases = append(releases, releaseName)
		}
	}
	return mine, func() {
		for _, releaseName := range releases {
			releaseName()
		}
	}, others
}

// evaluate adds results for names, of which some may be known by now.
func (r *resolver) evaluate(
	ctx context.Context, pinned source.Pinned, system string, mine []string, keys map[string]string,
	results map[string]eval.Result,
) error {
	unknown, err := r.recorded(ctx, mine, keys, results)
	if err != nil {
		return err
	}
	ctx, clock := limit.NewClock(ctx, r.total)
	defer clock.Stop()
	for names := range slices.Chunk(unknown, eval.MaxNames) {
		var found map[string]eval.Result
		err := whole(pinned, func() (err error) {
			found, err = r.evaluator.Evaluate(ctx, sourceOf(pinned), system, names)
			return err
		})
		if errors.Is(context.Cause(ctx), limit.ErrTime) {
			return tooLong(r.total)
		}
		if err != nil {
			return err
		}
		lasting := make(map[string]eval.Result, len(found))
		for name, result := range found {
			results[name] = result
			if result.Cacheable() {
				lasting[keys[name]] = result
			}
		}
		if err := r.records.PutAll(ctx, lasting); err != nil {
			return fmt.Errorf("keeping what packages are: %w", err)
		}
	}
	return nil
}
