package nixstore

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
)

// A manner is how Nix builds on a machine, as a build has found out.
type manner struct {
	// Sandboxed builds see what they are made from, and nothing else of the machine.
	Sandboxed bool
	// FellBack says that Nix was told to sandbox builds, and the kernel does not permit it.
	FellBack bool
	// User is the number of the user that builds run as, -1 if that can't be told.
	User int
}

func (m manner) String() string {
	text := "builds are sandboxed"
	if !m.Sandboxed {
		text = "builds are not sandboxed"
	}
	if m.FellBack {
		text += ", though sandbox = true in nix.conf: the kernel does not permit it, and Nix builds all the same unless sandbox-fallback = false"
	}
	switch {
	case m.User < 0:
		return text
	case m.own():
		return fmt.Sprintf(
			"%s, and run as user %d, which is the registry's own: they can read and change what it can", text,
			m.User,
		)
	}
	return fmt.Sprintf("%s, and run as user %d", text, m.User)
}

// weak tells whether a build can do harm beside what it makes.
func (m manner) weak() bool { return !m.Sandboxed || m.own() }

func (m manner) own() bool { return m.User == os.Geteuid() && !m.Sandboxed }

// tells is a derivation that tells how it is built and then fails, so that nothing is kept of it.
// It needs no program but a shell, which a sandbox may lack.
const tells = `derivation {
  name = "how-builds-run";
  system = builtins.currentSystem;
  preferLocalBuild = true;
  builder = "/bin/sh";
  args = [ "-c" '' while read -r key value rest; do test "$key" != Uid: || uid=$value; done </proc/self/status
    read -r inside outside count </proc/self/uid_map; test -e /nix/var/nix && host=host || host=none; echo "runs as $uid $inside $outside on $host"; exit 1 '' ];
}`

var (
	wordsTold    = regexp.MustCompile(`^runs as (\d+) (\d+) (\d+) on (host|none)$`)
	wordsNoShell = regexp.MustCompile(`executing '/bin/sh': No such file or directory`)
)

// mannerOf builds a derivation to find out how Nix builds.
func mannerOf(ctx context.Context, evaluator *eval.Evaluator, conn *daemon.Conn) (m manner, err error) {
	drv, err := evaluator.Derive(ctx, tells)
	if err != nil {
		return manner{}, err
	}
	target, err := daemon.Outputs(drv)
	if err != nil {
		return manner{}, err
	}
	// No binary cache is asked for it.
	if err := conn.Override(ctx, map[string]string{"substitute": "false"}); err != nil {
		return manner{}, err
	}
	defer func() { err = cmp.Or(err, conn.Override(ctx, nil)) }()
	var said []string
	results, err := conn.Build(ctx, []daemon.DerivedPath{target}, func(line daemon.LogLine) {
		if line.Drv == drv && len(said) < logLines {
			said = append(said, wordsSerialized.ReplaceAllString(line.Text, "$1"))
		}
	})
	if err != nil {
		return manner{}, fmt.Errorf("building %s: %w", drv, err)
	}
	m = manner{User: -1}
	for _, line := range append(said, results[0].Message) {
		told := wordsTold.FindStringSubmatch(line)
		if told == nil {
			if _, err := os.Stat("/bin/sh"); err == nil && wordsNoShell.MatchString(line) {
				return manner{Sandboxed: true, User: -1}, nil // where it can be is not this machine's root directory
			}
			continue
		}
		var numbers [3]int
		for i := range numbers {
			if numbers[i], err = strconv.Atoi(told[i+1]); err != nil {
				return manner{}, fmt.Errorf("building %s: %w", drv, err)
			}
		}
		m.User = numbers[2] + numbers[0] - numbers[1] // outside of the sandbox
		m.Sandboxed = told[4] == "none"
		if !m.Sandboxed {
			setting, err := evaluator.Setting(ctx, "sandbox")
			if err != nil {
				return manner{}, err
			}
			m.FellBack = setting == "true"
		}
		return m, nil
	}
	return manner{}, fmt.Errorf(
		"building %s: it does not tell: %s %s", drv, strings.Join(said, " | "), results[0].Message,
	)
}

// safe are the first versions 2.N.M of Nix with what was mended in 2026, M by N;
// docs/decisions/nix-versions.md lists it. Later N have it from the start.
var safe = map[int]int{28: 7, 29: 4, 30: 5, 31: 5, 32: 8, 33: 6, 34: 7}

// unsafeVersion is what there is to say against a version of Nix where others have a say in what is
// built. It is empty if there is nothing.
func unsafeVersion(version string) string {
	var major, minor, patch int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch) // of 2.35pre-release, two
	first, lowest := 34, 28
	if needed, ok := safe[minor]; major == 2 && ok {
		if patch >= needed {
			return ""
		}
		lowest = minor
	} else if major > 2 || major == 2 && minor > first {
		return ""
	}
	return fmt.Sprintf(
		"Nix %s is older than 2.%d.%d, which mends CVE-2026-39860 and CVE-2026-44028: unless your distribution has mended them in it, build nothing that others have a say in",
		version, lowest, safe[lowest],
	)
}

// logManner logs how Nix builds, if it builds for images. Failing to find out keeps nothing from
// starting.
func (s *Store) logManner(ctx context.Context, evaluator *eval.Evaluator, conn *daemon.Conn) {
	if !s.options.Builds {
		return
	}
	if fault := unsafeVersion(conn.NixVersion()); fault != "" {
		logrus.Warn("nix: ", fault)
	}
	switch found, err := mannerOf(ctx, evaluator, conn); {
	case err != nil:
		logrus.WithError(err).Warn("nix: it can't be told how builds run")
	case found.weak():
		logrus.Warn("nix: ", found)
	default:
		logrus.Info("nix: ", found)
	}
}

// Start opens the store, has its collector begin, and logs warnings, Nix's own warnings and how Nix builds.
func (s *Store) Start(ctx context.Context, evaluator *eval.Evaluator, warnings []string) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer s.daemons.Put(conn)
	for _, warning := range append(warnings, conn.Warnings()...) {
		logrus.Warn("nix: ", warning)
	}
	logrus.Infof("nix: building images with Nix %s", conn.NixVersion())
	s.logManner(ctx, evaluator, conn)
	s.collector.start() // not before: a collection that hangs would delay the start
	return nil
}

// How tells how Nix builds on this machine, and what there is to be said against that, a line each.
// If it fails, the lines that it has are returned with the error.
func (s *Store) How(ctx context.Context, evaluator *eval.Evaluator) (lines []string, err error) {
	conn, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.daemons.Put(conn)
	if s.options.StoreBytes > 0 {
		// On another connection, as this one may have to wait for somebody's collection.
		if err := s.collector.mayCollect(ctx); err != nil {
			lines = append(lines, fmt.Sprintf("nix.maxstore can't be kept to: %v", err))
		}
	}
	if !s.options.Builds {
		return lines, nil
	}
	if fault := unsafeVersion(conn.NixVersion()); fault != "" {
		lines = append(lines, fault)
	}
	found, err := mannerOf(ctx, evaluator, conn)
	if err != nil {
		return lines, err
	}
	return append(lines, found.String()), nil
}
