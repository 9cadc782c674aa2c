package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A recorded conversation is a directory of testdata, made by scripts/record-nix.sh and named for
// the version of Nix, and the experimental feature that is on, if any: what was said (requests,
// answers), about which paths, and what the Conn made of it.
const (
	recordedRequests   = "requests.bin"
	recordedAnswers    = "answers.bin"
	recordedPaths      = "paths.txt"
	recordedTranscript = "transcript.txt"
)

// script is a peer that sends what it was given, whatever it receives.
type script struct {
	answers  io.Reader
	requests bytes.Buffer
}

func (s *script) Read(b []byte) (int, error)  { return s.answers.Read(b) }
func (s *script) Write(b []byte) (int, error) { return s.requests.Write(b) }
func (s *script) Stop(time.Duration)          {}
func (s *script) Err() error                  { return nil }

func recordedSettings() map[string]string {
	return map[string]string{"keep-going": "true", "max-jobs": "1", "substituters": ""}
}

// talk does every operation and writes down the results. The paths are derivations and, for each,
// an output.
func talk(ctx context.Context, c *Conn, paths []store.Path) string {
	var transcript strings.Builder
	note := func(what string, result any, err error) {
		fmt.Fprintf(&transcript, "%s: %v, %v\n", what, result, err)
	}
	var targets []DerivedPath
	var outs []store.Path
	for _, p := range paths {
		if target, err := Outputs(p); err == nil {
			targets = append(targets, target)
		} else {
			outs = append(outs, p)
		}
	}
	fmt.Fprintf(&transcript, "nix %s, warnings %q\n", c.NixVersion(), c.Warnings())
	missing, err := c.QueryMissing(ctx, targets, nil)
	note("missing", missing, err)
	note("temporary roots", c.TempRoots(), c.AddTempRoots(ctx, outs))
	results, err := c.Build(ctx, targets, func(l LogLine) { fmt.Fprintf(&transcript, "log: %s %q\n", l.Drv, l.Text) })
	for _, r := range results {
		note("built", fmt.Sprintf("%s %s %q %v", r.Target, r.Status, r.Message, r.Outputs), nil)
	}
	note("builds", len(results), err)
	// Without keep-going, the first failure stops the other targets.
	stopping := recordedSettings()
	delete(stopping, "keep-going")
	note("settings", "", c.do(ctx, "setting", storeSilence, func() error { return c.setOptions(stopping, nil) }))
	results, err = c.Build(ctx, targets, nil)
	for _, r := range results {
		note("built", fmt.Sprintf("%s %s %q %v", r.Target, r.Status, r.Message, r.Outputs), nil)
	}
	note("builds", len(results), err)
	valid, err := c.ValidPaths(ctx, outs)
	note("valid", valid, err)
	closure, err := c.Closure(ctx, valid)
	note("closure", closure, err)
	closure, err = c.Closure(ctx, outs)
	note("closure of all", closure, err)
	note("temporary roots", c.TempRoots(), c.Err())
	return transcript.String()
}

func TestRecorded(t *testing.T) {
	if os.Getenv("RECORD") != "" {
		record(t, "", "program", "dependent", "split", "slow")
		record(t, "ca-derivations", "program", "lib", "floating", "resolved", "unresolved")
	}
	dirs, err := filepath.Glob("testdata/nix-*")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no recorded conversation", err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			peer := &script{answers: bytes.NewReader(read(t, dir, recordedAnswers))}
			c, err := converse(t.Context(), peer, Options{Settings: recordedSettings()})
			if err != nil {
				t.Fatal(err)
			}
			var paths []store.Path
			for line := range strings.FieldsSeq(string(read(t, dir, recordedPaths))) {
				paths = append(paths, parse(t, line))
			}
			transcript := talk(t.Context(), c, paths)
			if want := string(read(t, dir, recordedTranscript)); transcript != want {
				t.Errorf("got:\n%s\nwant:\n%s", transcript, want)
			}
			if !bytes.Equal(peer.requests.Bytes(), read(t, dir, recordedRequests)) {
				t.Error("the requests are not those recorded")
			}
		})
	}
}

func read(t testing.TB, dir, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// recorder is a peer that writes down what is said.
type recorder struct {
	*proc.Process
	requests, answers bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Process.Read(b)
	r.answers.Write(b[:n])
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) {
	r.requests.Write(b)
	return r.Process.Write(b)
}

// record makes a conversation about attributes, of which the first two have outputs that are known.
func record(t *testing.T, feature string, attributes ...string) {
	h := newHost(t)
	h.seconds = "1000"
	h.options.Settings["experimental-features"] = feature
	var paths []store.Path
	for _, attribute := range attributes {
		paths = append(paths, h.derivation(attribute))
	}
	paths = append(paths, h.output(attributes[0]), h.output(attributes[1]))

	args := []string{"--stdio", "--option", "store", h.options.Store, "--option", "timeout", "1"}
	for name, value := range h.options.Settings {
		args = append(args, "--option", name, value)
	}
	process, err := h.runner.Start(
		proc.Command{Program: "nix-daemon", Args: args, Env: h.options.Env, Kill: syscall.SIGTERM},
	)
	if err != nil {
		t.Fatal(err)
	}
	peer := &recorder{Process: process}
	c, err := converse(t.Context(), peer, Options{Settings: recordedSettings()})
	if err != nil {
		t.Fatal(err)
	}
	transcript := talk(t.Context(), c, paths)
	c.Close()

	dir := filepath.Join("testdata", strings.TrimSuffix("nix-"+c.NixVersion()+"-"+feature, "-"))
	var list strings.Builder
	for _, p := range paths {
		fmt.Fprintln(&list, p)
	}
	err = os.MkdirAll(dir, 0o755)
	for file, content := range map[string]string{
		recordedRequests:   peer.requests.String(),
		recordedAnswers:    peer.answers.String(),
		recordedPaths:      list.String(),
		recordedTranscript: transcript,
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever a daemon sends, an operation ends with a result, an *Error, or a broken Conn, and its
// results are well-formed.
func FuzzAnswers(f *testing.F) {
	dirs, _ := filepath.Glob("testdata/nix-*")
	for _, dir := range dirs {
		answers := read(f, dir, recordedAnswers)
		f.Add(answers)
		f.Add(answers[:len(answers)/2])
	}
	paths := []store.Path{
		store.Dir + "/00000000000000000000000000000000-a.drv",
		store.Dir + "/00000000000000000000000000000000-a",
	}
	f.Fuzz(func(t *testing.T, answers []byte) {
		ctx := context.Background()
		c, err := converse(ctx, &script{answers: bytes.NewReader(answers)}, Options{})
		if err != nil {
			return
		}
		check := func(err error) {
			var reported *Error
			if (err != nil && !errors.As(err, &reported)) != (c.Err() != nil) {
				t.Fatalf("operation: %v, connection: %v", err, c.Err())
			}
		}
		results, err := c.Build(ctx, []DerivedPath{{paths[0], allOutputs}, {paths[1], ""}}, func(l LogLine) {
			if l.Text != plain(l.Text) || strings.Contains(l.Text, "\n") {
				t.Fatalf("line %q", l.Text)
			}
		})
		check(err)
		if err == nil && len(results) != 2 {
			t.Fatalf("%d results for 2 targets", len(results))
		}
		for _, result := range results {
			for output, path := range result.Outputs {
				if _, err := store.ParsePath(string(path)); err != nil || !isOutputName(output) {
					t.Fatalf("output %q is %q", output, path)
				}
			}
		}
		closure, err := c.Closure(ctx, paths)
		check(err)
		for _, ask := range []func() ([]store.PathInfo, error){
			func() ([]store.PathInfo, error) { return c.Infos(ctx, paths) },
			func() ([]store.PathInfo, error) { return c.SubstitutableInfos(ctx, paths, nil) },
		} {
			infos, err := ask()
			check(err)
			closure = append(closure, infos...)
		}
		for _, info := range closure {
			for _, r := range append(info.References, info.Path) {
				if _, err := store.ParsePath(string(r)); err != nil || info.NarSize < 0 {
					t.Fatal(info, err)
				}
			}
		}
		_, err = c.QueryMissing(ctx, nil, nil)
		check(err)
		check(c.AddTempRoots(ctx, paths))
		_, err = c.ValidPaths(ctx, paths)
		check(err)
	})
}
