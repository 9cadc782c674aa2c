package nixbuilder

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// saidFaultsCached is how many bytes are in memory of what the log has been told of includes.
const saidFaultsCached = 256 << 10

// included are the packages that every image has. Names that the set does not have are left out. A
// package that it has and that can't be had is a fault of the operator's, whose log says why, once
// for each revision and platform. No image is made without it: nobody would see that it lacks
// something.
func (b *Builder) included(
	pinned source.Pinned, system string, results map[string]eval.Result,
) (packages, error) {
	var found packages
	for _, name := range b.options.Include {
		if fault := faultOfInclude(name, results[name], system); fault != nil {
			b.sayOnce(pinned, system, fault)
			return nil, status.Errorf(
				status.Unavailable,
				"every image of this registry includes %s, which can't be had: the registry's log says why", name,
			)
		}
		if p := results[name].Package; p != nil {
			found = append(found, chosen{name: name, Package: *p})
		}
	}
	return found, nil
}

// sayOnce logs a fault of an include, unless it is what was said last of the revision.
func (b *Builder) sayOnce(pinned source.Pinned, system string, fault error) {
	key := records.Key(pinned.Revision, system)
	if said, ok := b.saidFaults.Get(key); ok && said == fault.Error() {
		return
	}
	b.saidFaults.Add(key, fault.Error(), len(key)+len(fault.Error()))
	logrus.WithError(fault).Errorf("nix: no image can be made for %s of %s at %s", system, pinned.Name, pinned.Revision)
}

// An includeError says why an include can't be had.
type includeError struct {
	name, reason string
	// lasting says that it can't be had at another time, either.
	lasting bool
}

func (e *includeError) Error() string {
	if strings.Contains(e.reason, e.name) {
		return "include: " + e.reason
	}
	return "include: " + e.name + ": " + e.reason
}

// faultOfInclude returns nil for a package that can be had, and for one that the set does not have.
func faultOfInclude(name string, result eval.Result, system string) *includeError {
	switch failure, p := result.Failure, result.Package; {
	case failure != nil && failure.Kind != eval.NotFound:
		return &includeError{name, failure.Message, result.Cacheable() && failure.Kind != eval.Unfetched}
	case p != nil && !runsOn(p.System, system):
		reason := fmt.Sprintf("it is a package for %s, the package set has none for %s", p.System, system)
		return &includeError{name, reason, true}
	}
	return nil
}

// faultsOfIncludes returns those faults that will last, and others.
func faultsOfIncludes(include []string, results map[string]eval.Result, system string) (lasting, passing error) {
	for _, name := range include {
		switch fault := faultOfInclude(name, results[name], system); {
		case fault == nil:
		case fault.lasting:
			lasting = errors.Join(lasting, fault)
		default:
			passing = errors.Join(passing, fault)
		}
	}
	return lasting, passing
}

// runsOn tells whether a system can run packages of one.
func runsOn(packageSystem, system string) bool {
	return packageSystem == system || packageSystem == "builtin"
}
