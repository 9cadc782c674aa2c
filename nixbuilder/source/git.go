package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// GitOptions say where a repository is. URL is needed.
type GitOptions struct {
	// URL is of https, http, ssh (also as user@host:path) or file, or an absolute path. It is
	// fetched with the user and password that it has, or else with the credentials that git itself
	// is set up with.
	URL string
	// Ref is the branch, tag or commit that latest stands for; empty: the remote's HEAD.
	Ref string
	// Submodules has the files of submodules fetched too, theirs included, each at the commit that
	// is recorded for it.
	Submodules bool
	// Tags are what clients may choose; nil: the branches, the tags and their history. Memory has
	// what Ref stood at; nil: it is not remembered.
	Tags   Tags
	Memory Memory
	// Dir is where objects and trees are kept; Keep is how many trees, zero: 4. MaxBytes is how
	// much one commit may take there, zero: as much as it does.
	Dir      string
	Keep     int
	MaxBytes int64
	// Refresh is how long a branch or tag is believed to stand where it stood.
	Refresh time.Duration
}

// Git is a package set in a git repository. A tag may be a branch, a tag or a commit, as 40
// hexadecimal digits, if it may be chosen.
type Git struct {
	options GitOptions
	name    string // for people: the URL without credentials
	runner  *proc.Runner
	silence time.Duration // how long is waited for a server that sends nearly nothing, in seconds
	lookups *lookups
	chosen  *lookups // commits, by themselves: that they may be chosen
	history *history
	trees   *trees
	grown   func()

	fetching sync.Mutex // one fetch into the repository of objects at a time; guards what follows
	tidied   int64      // bytes of objects that were left when those that no tree has were removed

	password []string // variables by which git asks for the URL's; none: it has none

	setUpSSH sync.Once
	ssh      []string // variables, from then on
}

// withSubmodules is what trees with the files of submodules are told apart by.
const withSubmodules = "submodules"

// lookupTime is how long a remote may take to say what a branch or tag stands for.
const lookupTime = 2 * time.Minute

// remoteProtocols are those that do not read from this machine.
const remoteProtocols = "https:http:ssh"

var (
	scpURL = regexp.MustCompile(`^[A-Za-z0-9._]+@[A-Za-z0-9.-]+:[^-]`)
	gitRef = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,200}$`)
)

// Check tells what is impossible about the options.
func (o GitOptions) Check() error {
	_, err := checkGitURL(o.URL)
	if o.Ref != "" && !gitRef.MatchString(o.Ref) {
		err = errors.Join(err, fmt.Errorf("%q is not a branch, tag or commit", o.Ref))
	}
	return err
}

// Name is the URL for people, without credentials.
func (o GitOptions) Name() string {
	name, _ := checkGitURL(o.URL)
	return name
}

// NewGit checks the options. Nothing is fetched before the first Pin.
func NewGit(runner *proc.Runner, options GitOptions) (*Git, error) {
	if err := options.Check(); err != nil {
		return nil, err
	}
	name, err := checkGitURL(options.URL)
	if err != nil {
		return nil, err
	}
	if options.Tags == nil {
		options.Tags = defaultGitTags
	}
	if err := options.Tags.Check(true); err != nil {
		return nil, err
	}
	options.Keep = cmp.Or(options.Keep, keptRevisions)
	trees := "trees"
	if options.Submodules {
		trees = "trees-" + withSubmodules
	}
	kept, err := newTrees(filepath.Join(options.Dir, trees), options.Keep)
	if err != nil {
		return nil, err
	}
	known, err := newLookups(filepath.Join(options.Dir, "refs.json"), options.Refresh)
	if err != nil {
		return nil, err
	}
	chosen, err := newLookups(filepath.Join(options.Dir, "commits.json"), options.Refresh)
	if err != nil {
		return nil, err
	}
	g := &Git{
		options: options,
		name:    name,
		runner:  runner,
		silence: defaultPatience().time,
		lookups: known,
		chosen:  chosen,
		trees:   kept,
		grown:   func() {},
	}
	g.history = &history{
		git:   g,
		dir:   filepath.Join(options.Dir, "history"),
		bytes: min(historyBytes, cmp.Or(options.MaxBytes/2, historyBytes)),
		slot:  limit.NewSlots(1),
	}
	g.options.URL, g.password, err = hidePassword(options.URL, options.Dir)
	return g, err
}

// checkGitURL refuses what git would take for an option or run a command for, and returns the URL
// without credentials.
func checkGitURL(text string) (name string, err error) {
	if strings.HasPrefix(text, "/") || scpURL.MatchString(text) {
		return text, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", errors.New(
			"the URL of the git repository can't be parsed",
		) // the parser's error has it all, with passwords
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
	case (u.Scheme == "https" || u.Scheme == "http" || u.Scheme == "ssh") && u.Host != "" && u.Host[0] != '-':
	default:
		return "", fmt.Errorf("%q is not a URL of https, http, ssh or file", u.Redacted())
	}
	u.User = nil
	return u.String(), nil
}

// local tells whether the repository is on this machine.
func (g *Git) local() bool {
	return strings.HasPrefix(g.options.URL, "/") || strings.HasPrefix(g.options.URL, "file:")
}

// ref is what a tag is to git. Empty: HEAD.
func (g *Git) ref(tag string) string {
	if tag == Latest {
		return g.options.Ref
	}
	return tag
}

// Where a remote has what names stand for; of one name, as git has it, tags go first.
const (
	tagsPrefix  = "refs/tags/"
	headsPrefix = "refs/heads/"
)

// places are where a name that may be chosen is looked for.
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

// lookupOf is what a name that is looked for in places is remembered by. It is another one if it
// may not stand for all that it could.
func lookupOf(ref string, places []string) string {
	if len(places) == 1 {
		return places[0] + ref
	}
	return ref
}

// Current knows commits, and what the remote was lately asked for.
func (g *Git) Current(tag string) (revision string, ok bool) {
	ref := g.ref(tag)
	return g.lookups.current(lookupOf(ref, g.places(ref)))
}

// Pin asks the remote what a branch or tag stands for, unless it did so lately, and fetches the
// commit unless it is there. The error is a *NotAllowedError if the tag may not be chosen.
func (g *Git) Pin(ctx context.Context, tag string) (Pinned, error) {
	ref := g.ref(tag)
	pinned := Pinned{Name: g.name, Revision: ref}
	if commitTag.MatchString(ref) {
		var err error
		if pinned.Stale, err = g.allow(ctx, ref); err != nil {
			return Pinned{}, fmt.Errorf("looking for %s in %s: %w", ref, g.name, err)
		}
	} else {
		if ref != "" && !gitRef.MatchString(ref) {
			return Pinned{}, ErrUnknownTag
		}
		places := g.places(ref)
		if len(places) == 0 {
			return Pinned{}, notAllowed("tag %q is not one of those that may be chosen (packages.tags)", ref)
		}
		var err error
		pinned.Revision, pinned.Stale, err = g.lookups.get(ctx, lookupOf(ref, places), func(ctx context.Context) (string, error) {
			return g.remote(ctx, ref, places)
		})
		if err != nil {
			return Pinned{}, fmt.Errorf("looking up %s in %s: %w", cmp.Or(ref, "HEAD"), g.name, err)
		}
	}
	release, err := g.hold(ctx, pinned.Revision, ref)
	if err != nil {
		return Pinned{}, err
	}
	defer release()
	if ref == g.options.Ref {
		see(ctx, g.options.Memory, pinned.Revision)
	}
	pinned.Commit = pinned.Revision
	if chosen, ok := g.Current(Latest); tag == Latest || ok && chosen == pinned.Revision {
		pinned.Origin = "git " + g.options.Ref + " " + g.options.URL
	}
	pinned.Path = g.trees.path(pinned.Revision)
	if pinned.Absent, err = g.trees.paths(pinned.Revision, absentName); err != nil {
		return Pinned{}, err
	}
	if pinned.Pointers, err = g.trees.paths(pinned.Revision, pointersName); err != nil {
		return Pinned{}, err
	}
	pinned.Date, err = g.trees.date(pinned.Revision)
	return pinned, err
}

// allow fails unless a commit may be chosen. The remote is asked only if that takes its history; if
// it can't be, the last answer counts, and stale says why.
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

// Hold checks the commit out again if it is gone. Its objects are kept.
func (g *Git) Hold(ctx context.Context, pinned Pinned) (release func(), err error) {
	return g.hold(ctx, pinned.Revision, pinned.Revision)
}

func (g *Git) hold(ctx context.Context, commit, ref string) (release func(), err error) {
	made := false
	release, err = g.trees.makeHeld(commit, func(dir string) (time.Time, error) {
		made = true
		return g.checkOut(ctx, commit, ref, dir)
	})
	if made {
		g.grown()
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s of %s: %w", commit, g.name, err)
	}
	return release, nil
}

// remote asks for the commit of a branch or tag, in the places where that may be. Other refs are
// not listed: large hosts have one for each change that anybody ever proposed.
func (g *Git) remote(ctx context.Context, ref string, places []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	names, kinds := []string{"HEAD"}, []string(nil)
	if ref != "" {
		names = []string{
			tagsPrefix + ref + "^{}", tagsPrefix + ref, headsPrefix + ref,
		} // ^{} is what an annotated tag is of
		kinds = []string{
			"--heads", "--tags",
		} // which the server looks at, unlike names
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
		if ok &&
			(ref == "" || slices.ContainsFunc(
				places, func(prefix string) bool { return strings.HasPrefix(name, prefix) },
			)) {
			return commit, nil
		}
		elsewhere = elsewhere || ok
	}
	if elsewhere {
		return "", notAllowed("%q may not be chosen: packages.tags does not list branches and tags alike", ref)
	}
	return "", ErrUnknownTag
}

// checkOut writes the files of a commit into dir as they were committed, and returns its date.
// Neither hooks nor the repository's own configuration are used, and what git is set up with on
// this machine does not change files.
func (g *Git) checkOut(ctx context.Context, commit, ref, dir string) (time.Time, error) {
	g.fetching.Lock()
	defer g.fetching.Unlock()
	lock, err := lockTree(g.options.Dir, unix.LOCK_EX) // of other processes, too: git itself fails instead of waiting
	if err != nil {
		return time.Time{}, err
	}
	defer lock.Close()
	objects := g.objects()
	if err := g.init(ctx, objects); err != nil {
		return time.Time{}, err
	}
	used(objects)
	var date time.Time
	err = cachedir.Within(
		ctx,
		cmp.Or(g.options.MaxBytes, math.MaxInt64),
		[]string{objects, filepath.Dir(dir)},
		func(ctx context.Context) error {
			if err := g.fetch(ctx, objects, commit, ref); err != nil {
				return err
			}
			date, err = g.write(ctx, objects, commit, dir)
			return err
		},
	)
	if most := g.options.MaxBytes; err == nil && most > 0 && cachedir.Usage(dir) > most {
		err = cachedir.ErrTooMuch // it was written fast
	}
	if errors.Is(err, cachedir.ErrTooMuch) {
		removeAll(objects)
		err = notAllowed(
			"commit %s takes more room than %s (cachesize)", commit,
			units.BytesSize(float64(g.options.MaxBytes)),
		)
	}
	if err != nil {
		return time.Time{}, err
	}
	if g.tidy(ctx, objects, commit) != nil && ctx.Err() == nil {
		removeAll(objects) // what can't be kept in order is fetched again
	}
	return date, nil
}

func (g *Git) objects() string { return filepath.Join(g.options.Dir, "objects.git") }

// tidyBytes is how much may be added to the objects, beside as much as there is, before those that
// no tree has are removed.
const tidyBytes = 32 << 20

// tidy notes that a commit has a tree, so that what the next one has in common with it is not
// fetched again, and now and then removes objects of other commits than those that have one.
func (g *Git) tidy(ctx context.Context, objects, commit string) error {
	const kept = "refs/kept/"
	if _, err := g.gitIn(ctx, objects, "", "update-ref", kept+commit, commit); err != nil {
		return err
	}
	if cachedir.Usage(objects) < 2*g.tidied+tidyBytes {
		return nil
	}
	output, err := g.gitIn(ctx, objects, "", "for-each-ref", "--format=%(refname)", kept)
	if err != nil {
		return err
	}
	trees := g.trees.used()
	for ref := range strings.Lines(string(output)) {
		ref = strings.TrimSpace(ref)
		if other := strings.TrimPrefix(ref, kept); other == commit || slices.Contains(trees, other) {
			continue
		}
		if _, err := g.gitIn(ctx, objects, "", "update-ref", "-d", ref); err != nil {
			return err
		}
	}
	if _, err := g.gitIn(ctx, objects, "", "gc", "--quiet", "--prune=now"); err != nil {
		return err
	}
	g.tidied = cachedir.Usage(objects)
	return nil
}

// write writes the files of a commit that was fetched.
func (g *Git) write(ctx context.Context, objects, commit, dir string) (time.Time, error) {
	index := filepath.Join(filepath.Dir(dir), "index")
	defer func() { _ = os.Remove(index) }()
	if _, err := g.gitIn(ctx, objects, index, "read-tree", commit); err != nil {
		return time.Time{}, err
	}
	if _, err := g.gitIn(
		ctx, objects, index, "--work-tree="+dir, "checkout-index", "--all", "--force", "--prefix="+dir+"/",
	); err != nil {
		return time.Time{}, err
	}
	submodules, err := g.submodules(ctx, objects, index)
	if err != nil {
		return time.Time{}, err
	}
	if len(submodules) > 0 && g.options.Submodules {
		err = g.checkOutSubmodules(ctx, objects, index, dir)
	} else {
		err = writePaths(dir, absentName, submodules)
	}
	if err != nil {
		return time.Time{}, err
	}
	pointers, err := pointers(dir)
	if err == nil {
		err = writePaths(dir, pointersName, pointers)
	}
	if err != nil {
		return time.Time{}, err
	}
	if len(pointers) > 0 {
		logrus.Warnf(
			"nix: %d files of %s at %s are in git LFS, such as %s: packages get what git has, which is not the content",
			len(pointers), g.name, commit, pointers[0],
		)
	}
	output, err := g.gitIn(ctx, objects, index, "log", "-1", "--format=%ct", commit, "--")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(output)), 10, 64)
	return time.Unix(seconds, 0), err
}

// submodules are the paths of the submodules of what is in an index, not those that they have
// themselves.
func (g *Git) submodules(ctx context.Context, objects, index string) (paths []string, err error) {
	output, err := g.gitIn(ctx, objects, index, "ls-files", "--stage", "-z")
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(output), "\x00") {
		if status, path, ok := strings.Cut(entry, "\t"); ok && strings.HasPrefix(status, "160000 ") {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// checkOutSubmodules has git put the submodules into dir, whose other files are there. Git itself
// refuses paths that lead out of the tree, also through links, names that lead out of its own
// directory, URLs and paths that are options, and commands in .gitmodules. One commit of each is
// fetched where the server gives out commits by name, else all there is.
func (g *Git) checkOutSubmodules(ctx context.Context, objects, index, dir string) error {
	repository := filepath.Join(filepath.Dir(dir), "submodules.git")
	defer removeAll(repository)
	var errs []error
	for _, depth := range [][]string{{"--depth=1"}, nil} {
		removeAll(repository)
		if err := removeGitFiles(dir); err != nil { // of the first attempt, which may have come half-way
			return err
		}
		err := g.updateSubmodules(ctx, objects, index, repository, dir, depth)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (g *Git) updateSubmodules(ctx context.Context, objects, index, repository, dir string, depth []string) error {
	if err := g.init(ctx, repository); err != nil {
		return err
	}
	alternates := filepath.Join(repository, "objects", "info", "alternates")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(alternates), 0o755),
		os.WriteFile(alternates, []byte(filepath.Join(objects, "objects")+"\n"), 0o644),
	); err != nil {
		return err
	}
	// What relative URLs start from.
	if _, err := g.gitIn(ctx, repository, "", "config", "remote.origin.url", g.options.URL); err != nil {
		return err
	}
	env := []string{"GIT_DIR=" + repository, "GIT_WORK_TREE=" + dir, "GIT_INDEX_FILE=" + index}
	if !g.local() {
		// A remote has no say in what is read from this machine.
		env = append(env, "GIT_ALLOW_PROTOCOL="+remoteProtocols)
	}
	args := append(
		[]string{"-C", dir, "submodule", "--quiet", "update", "--init", "--recursive", "--force", "--checkout"},
		depth...)
	if _, err := g.run(ctx, env, args); err != nil {
		return err
	}
	return removeGitFiles(dir)
}

// removeGitFiles removes what git leaves in checked-out submodules. No commit has files of that
// name.
func removeGitFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != ".git" {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if entry.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
}

// fetch gets a commit: alone where the server gives out commits by name, else with the branch or
// tag that it was found by, else with all there is.
func (g *Git) fetch(ctx context.Context, objects, commit, ref string) error {
	has := func() bool {
		_, err := g.gitIn(ctx, objects, "", "cat-file", "-e", commit+"^{commit}")
		return err == nil
	}
	if has() {
		return nil
	}
	all := []string{"+refs/heads/*:refs/remotes/all/*", "+refs/tags/*:refs/tags/*"}
	attempts := [][]string{{"--depth=1", "--", g.options.URL, commit}}
	if ref != "" && ref != commit {
		attempts = append(attempts, []string{"--depth=1", "--", g.options.URL, ref})
	}
	whole := []string{"--", g.options.URL}
	if _, err := os.Stat(filepath.Join(objects, "shallow")); err == nil {
		whole = append(
			[]string{"--unshallow"},
			whole...) // else nothing would come of what lies behind commits that were fetched alone
	}
	attempts = append(attempts, append(whole, all...))
	var errs []error
	for _, attempt := range attempts {
		_, err := g.gitIn(
			ctx,
			objects,
			"",
			append(
				[]string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no"},
				attempt...)...)
		if has() {
			return nil
		}
		errs = append(errs, err)
	}
	if errs[len(errs)-1] == nil {
		return ErrUnknownTag // the remote was read, and does not have it
	}
	return errors.Join(errs...)
}

// What new repositories begin with, submodules' too, lest files be changed when they are checked
// out. These attributes count above those of files.
const (
	asCommitted = "* -filter -text -eol -ident -working-tree-encoding\n"
	plainConfig = "[core]\n\tsymlinks = true\n\tsparseCheckout = false\n"
)

// init makes a bare repository, unless it is there.
func (g *Git) init(ctx context.Context, repository string) error {
	info := filepath.Join(g.template(), "info")
	if err := os.MkdirAll(info, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{filepath.Join(info, "attributes"): asCommitted, filepath.Join(g.template(), "config"): plainConfig} {
		if err := writeFile(name, []byte(content)); err != nil {
			return err
		}
	}
	_, err := g.git(ctx, "init", "--quiet", "--bare", "--", repository)
	return err
}

func (g *Git) template() string { return filepath.Join(g.options.Dir, "template") }

func (g *Git) gitIn(ctx context.Context, objects, index string, args ...string) ([]byte, error) {
	env := []string{"GIT_DIR=" + objects}
	if index != "" {
		env = append(env, "GIT_INDEX_FILE="+index)
	}
	return g.run(ctx, env, args)
}

func (g *Git) git(ctx context.Context, args ...string) ([]byte, error) { return g.run(ctx, nil, args) }

// gitVariables are what git is set up by, beside its files of configuration.
var gitVariables = []string{
	"PATH", "HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
	"SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT",
	"SSL_CERT_FILE", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_CERT", "GIT_SSL_KEY",
	"HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
}

func (g *Git) run(ctx context.Context, env, args []string) ([]byte, error) {
	output, err := g.output(ctx, env, args)
	return output.Stdout, err
}

// output runs git without questions to anybody, for the protocols that URLs may have, with the
// user's own credentials.
func (g *Git) output(ctx context.Context, env, args []string) (proc.Output, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	inherited := []string{
		"LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false", "SSH_ASKPASS=false", "SSH_ASKPASS_REQUIRE=force",
		"GIT_ALLOW_PROTOCOL=" + remoteProtocols + ":file", "GIT_TEMPLATE_DIR=" + g.template(),
	}
	for _, name := range gitVariables {
		if value := os.Getenv(name); value != "" {
			inherited = append(inherited, name+"="+value)
		}
	}
	g.setUpSSH.Do(func() { g.ssh = g.batchMode(ctx, inherited) })
	env = slices.Concat(inherited, g.ssh, g.password, env)
	options := []string{
		"-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "core.symlinks=true", "-c", "core.sparseCheckout=false",
		"-c", "http.lowSpeedLimit=1000", "-c", fmt.Sprintf("http.lowSpeedTime=%.0f", g.silence.Seconds()),
	}
	if g.password != nil {
		options = append(options, "-c", "credential.helper=") // which would come before it
	}
	return g.runner.Run(ctx, proc.Command{Program: "git", Args: append(options, args...), Env: env})
}

// batchMode is what keeps ssh from asking on a terminal, and from waiting for a server that is
// gone, unless git is set up with another ssh.
func (g *Git) batchMode(ctx context.Context, env []string) []string {
	if os.Getenv("GIT_SSH_COMMAND") != "" || os.Getenv("GIT_SSH") != "" {
		return nil
	}
	// Outside of any repository this is the configuration of the user and of the machine.
	args := []string{"config", "--get", "core.sshCommand"}
	if _, err := g.runner.Run(
		ctx, proc.Command{Program: "git", Args: args, Env: append(slices.Clip(env), "GIT_DIR=/nonexistent")},
	); err == nil {
		return nil
	}
	return []string{"GIT_SSH_COMMAND=ssh -oBatchMode=yes -oConnectTimeout=30 -oServerAliveInterval=15"}
}
