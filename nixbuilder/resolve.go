package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// wanted are the names of a request's packages and of those that come with them.
func (b *Builder) wanted(request names.Request) []string {
	wanted := slices.Concat(request.Packages, b.options.Include)
	for _, meta := range b.metaPackages(request) {
		wanted = slices.Concat(wanted, meta.needs, meta.takes)
	}
	return wanted
}

// wantedFirst are the names of several requests together, of what is in every image, of what
// meta-packages stand for, and of those themselves, sorted.
func (b *Builder) wantedFirst(requests []names.Request) []string {
	all := names.Request{Shell: true, CI: true}
	wanted := b.wanted(all)
	for _, meta := range b.metaPackages(all) {
		wanted = append(wanted, meta.name)
	}
	for _, request := range requests {
		wanted = append(wanted, request.Packages...)
	}
	slices.Sort(wanted)
	return slices.Compact(wanted)
}

// Prepare finds the packages of requests, and those that are in every image, before they are asked
// for. Packages that can't be had are no failure. Packages that nobody can ask for, because their
// names are those of meta-packages, are logged. The error of a set that can't be used is what
// clients are told.
func (b *Builder) Prepare(ctx context.Context, pinned source.Pinned, requests []names.Request) error {
	release, err := b.source.Lease(ctx, pinned)
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
		results, _, err := b.find(ctx, pinned, limit.Asker{}, system, wanted)
		if err != nil {
			return err
		}
		_, _ = b.included(pinned, system, results) // the operator is told now, clients when they ask
		b.warnOfHidden(results, system)
	}
	return nil
}

// resolve finds the packages of a request, in one evaluation unless it has very many, and asks the
// policy about them.
func (b *Builder) resolve(
	ctx context.Context, request names.Request, pinned source.Pinned, who limit.Asker, system string,
) (packages, error) {
	results, denied, err := b.find(ctx, pinned, who, system, b.wanted(request))
	if err != nil {
		return nil, err
	}
	if err := refusal(request.Packages, results, pinned); err != nil {
		return nil, err
	}
	found, err := b.allowed(request.Packages, results, denied)
	if err != nil {
		return nil, err
	}
	for _, meta := range b.metaPackages(request) {
		members, err := meta.members(results)
		if err != nil {
			return nil, err
		}
		found = append(found, members...)
	}
	for _, p := range found {
		if !runsOn(p.System, system) {
			return nil, status.Errorf(
				status.Denied, "%s is a package for %s, the package set has none for %s", p.name, p.System, system,
			)
		}
	}
	included, err := b.included(pinned, system, results)
	if err != nil {
		return nil, err
	}
	return append(found, included...).unique(), nil
}

// find returns a result for every name, and what the policy denies in this revision. What clients
// are told of a set that can't be used is a *status.Error.
//
// The names in the policy are evaluated with the first names of a revision, after them: if they
// take all the time that there is, the others have their results. A name of the policy that could
// not be evaluated denies nothing but itself, for as long as this process remembers.
func (b *Builder) find(
	ctx context.Context, pinned source.Pinned, who limit.Asker, system string, wanted []string,
) (map[string]eval.Result, denials, error) {
	named := b.options.Policy.Named()
	key := records.Key(pinned.Revision, system)
	denied, known := b.denials.Get(key)
	if !known {
		wanted = slices.Concat(wanted, named)
	}
	results, err := b.packages.find(ctx, pinned, who, system, wanted)
	if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
		return nil, nil, faultOf(pinned, fault)
	}
	if err == nil && !known {
		denied = newDenials(named, results)
		b.denials.Add(key, denied, denied.weight())
	}
	return results, denied, err
}

// Refusal tells what is already known to be wrong with a request for source.Latest, nil for
// nothing. It evaluates nothing and asks no remote. The error is of kind NotFound or Denied if the
// request would be refused.
func (b *Builder) Refusal(ctx context.Context, request names.Request) error {
	revision, ok := b.source.Current(source.Latest)
	if !ok {
		return nil
	}
	platforms := b.options.Platforms
	if request.Arch != "" {
		platforms = []string{"linux/" + request.Arch}
	}
	var refused error
	for _, platform := range platforms {
		system, err := SystemOf(platform)
		if err != nil {
			return status.Errorf(status.NotFound, "%v", err)
		}
		results, err := b.packages.known(ctx, revision, system, request.Packages)
		if err != nil {
			return err
		}
		if err = refusal(request.Packages, results, source.Pinned{}); err == nil {
			denied, _ := b.denials.Get(records.Key(revision, system))
			_, err = b.allowed(request.Packages, results, denied)
		}
		if err == nil {
			return nil // an image for one platform is an image
		}
		if refused == nil {
			refused = err
		}
	}
	return refused
}

// allowed returns the packages of those names that have a result, unless the policy denies one.
func (b *Builder) allowed(
	names []string, results map[string]eval.Result, denied denials,
) (found packages, err error) {
	for _, name := range names {
		p := results[name].Package
		if p == nil {
			continue
		}
		c := chosen{name: name, asked: true, Package: *p}
		if c.denied(b.options.Policy, denied) {
			return nil, status.Errorf(status.Denied, "%s is denied by the policy of this registry", name)
		}
		found = append(found, c)
	}
	return found, nil
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

// whole evaluates something of a set, and fails if its files were touched meanwhile: what Nix says
// of files that are being removed is not true of the set.
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

// faultOf is what clients are told of a set that can't be used.
func faultOf(pinned source.Pinned, fault *eval.SourceError) error {
	kind := status.Denied
	if fault.Unfetched || fault.Setup {
		kind = status.Unavailable
	}
	return status.Errorf(kind, "%v%s", fault, hint(pinned, fault.Message))
}

// continues matches what follows the beginning of a longer file name.
var continues = regexp.MustCompile(`^[A-Za-z0-9_+-]|^\.[A-Za-z0-9]`)

// hint explains a failure for want of a submodule's files, or of the content of a file that is in
// git LFS. It is empty for other failures.
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
