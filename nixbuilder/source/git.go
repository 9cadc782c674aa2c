package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// GitOptions say where a repository is. URL is needed.
type GitOptions struct {
	// URL is of https, http, ssh (also as user@host:path) or file, or an absolute path. It is fetched with the credentials that git itself is set up with.
	URL string
	// Ref is the branch, tag or commit that latest stands for; empty: the remote's HEAD.
	Ref string
	// Dir is where objects and trees are kept; Keep is how many trees, zero: 4.
	Dir  string
	Keep int
	// Refresh is how long a branch or tag is believed to stand where it stood.
	Refresh time.Duration
}

// Git is a package set in a git repository. A tag may be a branch, a tag or a commit, as 40 hexadecimal digits.
type Git struct {
	options GitOptions
	name    string // for people: the URL without credentials
	runner  *proc.Runner
	lookups *lookups
	trees   *trees

	fetching sync.Mutex // one fetch into the repository of objects at a time
}

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

// NewGit checks the options. Nothing is fetched before the first Pin.
func NewGit(runner *proc.Runner, options GitOptions) (*Git, error) {
	if err := options.Check(); err != nil {
		return nil, err
	}
	name, err := checkGitURL(options.URL)
	if err != nil {
		return nil, err
	}
	options.Keep = cmp.Or(options.Keep, keptRevisions)
	kept, err := newTrees(filepath.Join(options.Dir, "trees"), options.Keep)
	if err != nil {
		return nil, err
	}
	known, err := newLookups(filepath.Join(options.Dir, "refs.json"), options.Refresh)
	if err != nil {
		return nil, err
	}
	return &Git{options: options, name: name, runner: runner, lookups: known, trees: kept}, nil
}

// checkGitURL refuses what git would take for an option or run a command for, and returns the URL without credentials.
func checkGitURL(text string) (name string, err error) {
	if strings.HasPrefix(text, "/") || scpURL.MatchString(text) {
		return text, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", errors.New("the URL of the git repository can't be parsed") // the parser's error has it all, with passwords
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

// Moves is false for commits.
func (g *Git) Moves(tag string) bool {
	return !commitTag.MatchString(tag) && (tag != Latest || !commitTag.MatchString(g.options.Ref))
}

// Pin asks the remote what a branch or tag stands for, unless it did so lately, and fetches the commit unless it is there.
func (g *Git) Pin(ctx context.Context, tag string) (Pinned, error) {
	ref := tag
	if tag == Latest {
		ref = g.options.Ref // empty: HEAD
	}
	pinned := Pinned{Name: g.name, Revision: ref}
	if !commitTag.MatchString(ref) {
		if ref != "" && !gitRef.MatchString(ref) {
			return Pinned{}, ErrUnknownTag
		}
		var err error
		pinned.Revision, pinned.Stale, err = g.lookups.get(ctx, ref, func(ctx context.Context) (string, error) {
			return g.remote(ctx, ref)
		})
		if err != nil {
			return Pinned{}, fmt.Errorf("looking up %q in %s: %w", ref, g.name, err)
		}
	}
	err := g.trees.make(pinned.Revision, func(dir string) (time.Time, error) {
		return g.checkOut(ctx, pinned.Revision, ref, dir)
	})
	if err != nil {
		return Pinned{}, fmt.Errorf("fetching %s of %s: %w", pinned.Revision, g.name, err)
	}
	pinned.Path = g.trees.path(pinned.Revision)
	pinned.Date, err = g.trees.date(pinned.Revision)
	return pinned, err
}

// remote asks for the commit of a branch or tag; of one name, as git has it, tags go first.
func (g *Git) remote(ctx context.Context, ref string) (string, error) {
	output, err := g.git(ctx, "ls-remote", "--", g.options.URL)
	if err != nil {
		return "", err
	}
	commits := make(map[string]string)
	for line := range strings.Lines(string(output)) {
		if commit, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && commitTag.MatchString(commit) {
			commits[name] = commit
		}
	}
	names := []string{"HEAD"}
	if ref != "" {
		names = []string{"refs/tags/" + ref + "^{}", "refs/tags/" + ref, "refs/heads/" + ref} // ^{} is what an annotated tag is of
	}
	for _, name := range names {
		if commit, ok := commits[name]; ok {
			return commit, nil
		}
	}
	return "", ErrUnknownTag
}

// checkOut writes the files of a commit into dir, and returns its date. Neither hooks nor the repository's own configuration are used.
func (g *Git) checkOut(ctx context.Context, commit, ref, dir string) (time.Time, error) {
	g.fetching.Lock()
	defer g.fetching.Unlock()
	objects := filepath.Join(g.options.Dir, "objects.git")
	if _, err := g.git(ctx, "init", "--quiet", "--bare", "--", objects); err != nil {
		return time.Time{}, err
	}
	if err := g.fetch(ctx, objects, commit, ref); err != nil {
		return time.Time{}, err
	}
	index := filepath.Join(filepath.Dir(dir), "index")
	defer func() { _ = os.Remove(index) }()
	if _, err := g.gitIn(ctx, objects, index, "read-tree", commit); err != nil {
		return time.Time{}, err
	}
	if _, err := g.gitIn(ctx, objects, index, "--work-tree="+dir, "checkout-index", "--all", "--force", "--prefix="+dir+"/"); err != nil {
		return time.Time{}, err
	}
	output, err := g.gitIn(ctx, objects, index, "log", "-1", "--format=%ct", commit, "--")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(output)), 10, 64)
	return time.Unix(seconds, 0), err
}

// fetch gets a commit: alone where the server gives out commits by name, else with the branch or tag that it was found by, else with all
// there is.
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
	attempts = append(attempts, append([]string{"--", g.options.URL}, all...))
	var errs []error
	for _, attempt := range attempts {
		_, err := g.gitIn(ctx, objects, "", append([]string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no"}, attempt...)...)
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

func (g *Git) gitIn(ctx context.Context, objects, index string, args ...string) ([]byte, error) {
	env := []string{"GIT_DIR=" + objects}
	if index != "" {
		env = append(env, "GIT_INDEX_FILE="+index)
	}
	return g.run(ctx, env, args)
}

func (g *Git) git(ctx context.Context, args ...string) ([]byte, error) { return g.run(ctx, nil, args) }

// run runs git without questions to anybody, for the protocols that URLs may have, with the user's own credentials.
func (g *Git) run(ctx context.Context, env, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	env = append(env,
		"LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "SSH_ASKPASS=true", "GIT_ALLOW_PROTOCOL=https:http:ssh:file",
	)
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "HTTPS_PROXY", "https_proxy", "http_proxy", "NO_PROXY", "no_proxy"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	ssh := os.Getenv("GIT_SSH_COMMAND")
	if ssh == "" {
		ssh = "ssh -oBatchMode=yes"
	}
	env = append(env, "GIT_SSH_COMMAND="+ssh)
	options := []string{"-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*", "-c", "gc.auto=0"}
	output, err := g.runner.Run(ctx, proc.Command{Program: "git", Args: append(options, args...), Env: env})
	return output.Stdout, err
}
