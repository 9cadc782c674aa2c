package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

func TestGreeting(t *testing.T) {
	for _, test := range []struct {
		name    string
		answers []byte
		want    string // part of the error; empty: none
	}{
		{"Nix 2.8", words(daemonMagic, 1<<8|34, "2.8.0", msgLast, msgLast), ""},
		{"newer protocol", words(daemonMagic, 1<<8|99, "3.0", msgLast, msgLast), ""},
		{"too old", words(daemonMagic, 1<<8|33, "2.7", msgLast, msgLast), "Nix is too old, 2.8 or later is needed"},
		{"other protocol", words(daemonMagic, 2<<8|34), "protocol 2.34"},
		{"other program", []byte("Usage: something [options]\n"), "not a Nix daemon"},
		{"nothing", nil, "unexpected EOF"},
		{
			"refused", words(daemonMagic, 1<<8|34, "2.8.0", msgError, "Error", 0, "Error", "go away", 0, 0),
			"nix: go away",
		},
		{
			"settings refused",
			words(daemonMagic, 1<<8|34, "2.8.0", msgLast, msgError, "Error", 0, "Error", "no", 0, 0),
			"nix: no",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := converse(t.Context(), &script{answers: bytes.NewReader(test.answers)}, Options{})
			if test.want == "" && (err != nil || c.Err() != nil) ||
				test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("converse() = %v, want %q", err, test.want)
			}
		})
	}
}

// An error about one of several requests does not take the answers of the others.
func TestErrorAmongAnswers(t *testing.T) {
	c := connect(t, words(
		msgLast, 1,
		msgError, "Error", 0, "Error", "no", 0, 0,
		msgLast, 1,
		msgLast, 1, pathA,
	))
	var reported *Error
	err := c.AddTempRoots(t.Context(), []store.Path{pathA, drvA, drvB})
	if !errors.As(err, &reported) || reported.Message != "no" || c.TempRoots() != 2 || c.Err() != nil {
		t.Errorf("AddTempRoots() = %v, TempRoots() = %d, connection: %v", err, c.TempRoots(), c.Err())
	}
	if valid, err := c.ValidPaths(t.Context(), []store.Path{pathA}); err != nil || len(valid) != 1 {
		t.Errorf("ValidPaths() after that = %v, %v", valid, err)
	}
}

func TestMissingResult(t *testing.T) {
	c := connect(t, words(msgLast, 1, drvB+"!*", 0, "", 1, 0, 0, 0, 0))
	results, err := c.Build(t.Context(), []DerivedPath{outputs(t, drvA)}, nil)
	if results != nil || err == nil || c.Err() == nil {
		t.Errorf("Build() = %v, %v, connection: %v, want an error and a broken connection", results, err, c.Err())
	}
}

// Outputs are store paths, whatever else the daemon calls one.
func TestOutputsOfResults(t *testing.T) {
	realisation := func(path string) string {
		return `{"dependentRealisations":{},"id":"sha256:0!x","outPath":"` + path + `","signatures":[]}`
	}
	good := strings.TrimPrefix(pathA, store.Dir+"/")
	answer := words(
		msgLast, 1, drvA+"!*", 0, "", 1, 0, 0, 0, 7, "sha256:0!out", realisation(good), "sha256:0!dev",
		realisation("../etc/passwd"), "sha256:0!doc", realisation(good+"/bin"), "sha256:0!lib",
		`{"outPath":1}`, "sha256:0!man", good, "sha256:0!../x", realisation(good), "sha256:0",
		realisation(good),
	)
	c := connect(t, answer)
	results, err := c.Build(t.Context(), []DerivedPath{outputs(t, drvA)}, nil)
	if err != nil || len(results) != 1 {
		t.Fatalf("Build() = %v, %v", results, err)
	}
	if want := (map[string]store.Path{"out": pathA}); !maps.Equal(results[0].Outputs, want) {
		t.Errorf("the outputs are %v, want %v", results[0].Outputs, want)
	}
}

// connect opens a connection to a script that goes on with answers.
func connect(t *testing.T, answers []byte) *Conn {
	t.Helper()
	greeting := words(daemonMagic, protocolVersion, "2.8.0", msgLast, msgLast)
	c, err := converse(t.Context(), &script{answers: bytes.NewReader(append(greeting, answers...))}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A silent daemon is ended with the context.
func TestCancelSilentDaemon(t *testing.T) {
	answers, daemon := io.Pipe()
	go func() { _, _ = daemon.Write(words(daemonMagic, protocolVersion, "2.8.0", msgLast, msgLast)) }()
	peer := &stoppable{script: script{answers: answers}, pipe: answers}
	c, err := converse(t.Context(), peer, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	peer.onWrite = cancel
	if _, err := c.ValidPaths(ctx, nil); !errors.Is(err, context.Canceled) || !errors.Is(c.Err(), context.Canceled) {
		t.Errorf("ValidPaths() = %v, connection: %v, want both canceled", err, c.Err())
	}
}

// stoppable is a script that can be stopped while it says nothing.
type stoppable struct {
	script
	pipe    *io.PipeReader
	onWrite func()
}

func (s *stoppable) Stop(time.Duration) { s.pipe.Close() }

func (s *stoppable) Write(b []byte) (int, error) {
	if s.onWrite != nil {
		s.onWrite()
	}
	return s.script.Write(b)
}

// Lists are sorted, whatever the order in which the daemon sends them.
func TestSorted(t *testing.T) {
	c := connect(t, words(
		msgLast, 2, drvB, pathA,
		msgLast, 2, drvB, drvA, 2, drvB, drvA, 2, drvB, pathA, 7, 8,
		msgLast, 1, "", "", 2, drvB, pathA, 0, 120, 0, 0, "",
		msgLast, 1, "", "", 0, 0, 112, 0, 0, "",
	))
	ctx := t.Context()
	valid, err := c.ValidPaths(ctx, nil)
	if want := []store.Path{pathA, drvB}; err != nil || !slices.Equal(valid, want) {
		t.Errorf("ValidPaths() = %v, %v, want %v", valid, err, want)
	}
	missing, err := c.QueryMissing(ctx, nil, nil)
	drvs := []store.Path{drvA, drvB}
	want := Missing{
		WillBuild:      drvs,
		WillSubstitute: drvs,
		Unknown:        []store.Path{pathA, drvB},
		DownloadSize:   7,
		NarSize:        8,
	}
	if err != nil || !reflect.DeepEqual(missing, want) {
		t.Errorf("QueryMissing() = %v, %v, want %v", missing, err, want)
	}
	closure, err := c.Closure(ctx, []store.Path{drvB})
	wantClosure := []store.PathInfo{
		{Path: pathA, NarSize: 112},
		{Path: drvB, NarSize: 120, References: []store.Path{pathA, drvB}},
	}
	if err != nil || !reflect.DeepEqual(closure, wantClosure) {
		t.Errorf("Closure() = %v, %v, want %v", closure, err, wantClosure)
	}
}

func TestFixedOptions(t *testing.T) {
	for _, test := range []struct {
		name     string
		settings map[string]string
		want     []uint64 // nil: refused
	}{
		{"defaults", nil, []uint64{0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1}},
		{
			"all set",
			map[string]string{
				"keep-failed": "true", "keep-going": "true", "fallback": "true",
				"max-jobs": "5", "max-silent-time": "6", "cores": "7", "substitute": "false",
			},
			[]uint64{1, 1, 1, 1, 5, 6, 1, 0, 0, 0, 7, 0},
		},
		{
			"jobs as there are processors", map[string]string{"max-jobs": "auto"},
			[]uint64{0, 0, 0, 1, uint64(runtime.NumCPU()), 0, 1, 0, 0, 0, 0, 1},
		},
		{"negative", map[string]string{"cores": "-1"}, nil},
		{"not a truth value", map[string]string{"fallback": "yes"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := fixedOptions(levelWarning, test.settings)
			if (err == nil) != (test.want != nil) || err == nil && !slices.Equal(got, test.want) {
				t.Errorf("fixedOptions() = %v, %v, want %v", got, err, test.want)
			}
		})
	}
}
