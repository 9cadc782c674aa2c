package nixbuilder

import (
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// A metaPackage stands for packages that the operator chose.
type metaPackage struct {
	name string // as it is asked for
	// needs have to be in the set. Of takes, there are those that the set has.
	needs, takes []string
}

// metaPackages are those that a request asks for.
func (b *Builder) metaPackages(request names.Request) (asked []metaPackage) {
	if request.Shell {
		asked = append(asked, metaPackage{name: names.Shell, needs: b.options.Shell})
	}
	if request.CI {
		asked = append(asked, metaPackage{name: names.CI, needs: b.options.CI, takes: b.options.Foreign})
	}
	return asked
}

// members are the packages that a meta-package stands for.
func (m metaPackage) members(results map[string]eval.Result) (members []chosen, err error) {
	for _, name := range m.needs {
		if failure := results[name].Failure; failure != nil {
			return nil, status.Errorf(status.Denied, "the meta-package %s needs %s: %s", m.name, name, failure.Message)
		}
		members = append(members, chosen{name: name, Package: *results[name].Package})
	}
	for _, name := range m.takes {
		switch failure := results[name].Failure; {
		case failure == nil:
			members = append(members, chosen{name: name, Package: *results[name].Package})
		case failure.Kind != eval.NotFound:
			return nil, status.Errorf(
				status.Denied, "the meta-package %s includes %s: %s", m.name, name, failure.Message,
			)
		}
	}
	return members, nil
}

// warnOfHidden logs the packages that nobody can ask for, because meta-packages have their names.
func (b *Builder) warnOfHidden(results map[string]eval.Result, system string) {
	for _, meta := range b.metaPackages(names.Request{Shell: true, CI: true}) {
		if found := results[meta.name].Package; found != nil {
			logrus.Warnf(
				"nix: %s of the package set can't be pulled for %s: %s is the meta-package that stands for %s, so it needs another name, too",
				strings.Join(found.Attr, "."), system, meta.name, strings.Join(meta.needs, ", "),
			)
		}
	}
}
