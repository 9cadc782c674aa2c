package source

import (
	"context"
	"slices"
	"strings"
)

// Where a remote has tags and branches. Git, too, looks at tags first.
const (
	tagsPrefix  = "refs/tags/"
	headsPrefix = "refs/heads/"
)

// ref is git's name for a tag; empty: HEAD.
func (g *Git) ref(tag string) string {
	if tag == Latest {
		return g.options.Ref
	}
	return tag
}

// places returns the prefixes under which a name may be looked up; none if clients may not choose
// it.
func (g *Git) places(ref string) (prefixes []string) {
	named := ref == g.options.Ref || g.options.Tags.match(ref)
	if named || g.options.Tags.has(GitTags) {
		prefixes = append(prefixes, tagsPrefix)
	}
	if named || g.options.Tags.has(Branches) {
		prefixes = append(prefixes, headsPrefix)
	}
	return prefixes
}

// lookupOf is the key by which a look-up is remembered. A name that may only be a tag, or only a
// branch, has another key than one that may be either.
func lookupOf(ref string, places []string) string {
	if len(places) == 1 {
		return places[0] + ref
	}
	return ref
}

// allow fails unless clients may choose a commit. It asks the remote only if it needs the history.
// If the remote can't be asked, the last answer counts, and stale says why.
func (g *Git) allow(ctx context.Context, commit string) (stale, err error) {
	if commit == g.options.Ref || g.options.Tags.has(AnyTag) {
		return nil, nil
	}
	if known, err := seen(ctx, g.options.Memory, commit); known || err != nil {
		return nil, err
	}
	if last, ok := g.lookups.last(g.options.Ref); ok && last == commit {
		return nil, nil
	}
	if !g.options.Tags.has(Ancestors) {
		return nil, notAllowed(
			"commit %s may not be chosen, as it is none that is or was the latest (packages.tags)", commit,
		)
	}
	_, stale, err = g.chosen.get(ctx, commit, func(ctx context.Context) (string, error) {
		return commit, g.history.leads(ctx, commit)
	})
	return stale, err
}

// remote asks for the commit of a branch or tag in the given places. It does not list other refs:
// large hosts have one for each change that anybody ever proposed.
func (g *Git) remote(ctx context.Context, ref string, places []string) (string, error) {
	names, kinds := []string{"HEAD"}, []string(nil)
	if ref != "" {
		// An annotated tag is at its commit by the name with ^{}. Servers heed kinds, unlike names.
		names = []string{tagsPrefix + ref + "^{}", tagsPrefix + ref, headsPrefix + ref}
		kinds = []string{"--heads", "--tags"}
	}
	output, err := g.git(ctx, slices.Concat([]string{"ls-remote"}, kinds, []string{"--", g.options.URL}, names)...)
	if err != nil {
		return "", err
	}
	commits := make(map[string]string)
	for line := range strings.Lines(string(output)) {
		if commit, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && commitTag.MatchString(commit) {
			commits[name] = commit
		}
	}
	elsewhere := false
	for _, name := range names {
		commit, ok := commits[name]
		allowed := ref == "" ||
			slices.ContainsFunc(places, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if ok && allowed {
			return commit, nil
		}
		elsewhere = elsewhere || ok
	}
	if elsewhere {
		return "", notAllowed("%q may not be chosen: packages.tags does not list branches and tags alike", ref)
	}
	return "", ErrUnknownTag
}
