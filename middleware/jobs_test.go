package middleware

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

func isBusy(err error) bool {
	var e *status.Error
	return errors.As(err, &e) && e.Kind == status.Busy
}

func TestJobsRunOncePerKey(t *testing.T) {
	j := newJobs(10, 10)
	var runs atomic.Int32
	release := make(chan struct{})
	build := func(context.Context) (source.Pinned, error) {
		runs.Add(1)
		<-release
		return source.Pinned{Revision: "r1"}, nil
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			started, err := j.start(t.Context(), "git:latest", limit.Asker{Client: "someone"}, build)
			if err != nil {
				t.Error(err)
				return
			}
			if pinned, err := started.await(t.Context(), nil); err != nil || pinned.Revision != "r1" {
				t.Errorf("the result is %q, %v", pinned.Revision, err)
			}
		})
	}
	close(release)
	wg.Wait()
	// Clients that came after the first run had ended started another; none ran beside one.
	if n := runs.Load(); n < 1 || n > 200 || len(j.running) != 0 || len(j.clients) != 0 {
		t.Errorf("%d runs, %d left running, %d clients left", n, len(j.running), len(j.clients))
	}
}

func TestJobsOutliveTheirClient(t *testing.T) {
	j := newJobs(10, 10)
	ctx, leave := context.WithCancel(t.Context())
	release := make(chan struct{})
	build := func(ctx context.Context) (source.Pinned, error) {
		<-release
		return source.Pinned{}, ctx.Err()
	}
	started, err := j.start(ctx, "git:latest", limit.Asker{Client: "someone"}, build)
	if err != nil {
		t.Fatal(err)
	}
	leave()
	close(release)
	if <-started.done; started.err != nil {
		t.Errorf("the build ended with its client: %v", started.err)
	}
}

func TestJobsLimits(t *testing.T) {
	for _, test := range []struct {
		name            string
		most, perClient int
		keys, clients   []string // builds under way
		key, client     string
		byClient        bool   // they chose the tags
		want            string // in the error
	}{
		{name: "room", most: 2, perClient: 2, keys: []string{"a"}, clients: []string{"x"}, key: "b", client: "x"},
		{
			name: "too many", most: 2, perClient: 2, keys: []string{"a", "b"}, clients: []string{"x", "y"},
			key: "c", client: "z", want: "2 images are being built",
		},
		{
			name: "too many of one client", most: 9, perClient: 1, keys: []string{"a"},
			clients: []string{"x"}, key: "b", client: "x", want: "for you",
		},
		{
			name: "another client's", most: 9, perClient: 1, keys: []string{"a"}, clients: []string{"x"},
			key: "b", client: "y",
		},
		{
			name: "what no client asked for", most: 1, perClient: 1, keys: []string{"a", "b"},
			clients: []string{own, own}, key: "c", client: own,
		},
		{
			name: "a client beside what no client asked for", most: 1, perClient: 1, keys: []string{"a"},
			clients: []string{own}, key: "b", client: "x",
		},
		{
			name: "no room but for what no client asked for", most: 1, perClient: 1, keys: []string{"a", "b"},
			clients: []string{own, "x"}, key: "c", client: "y", want: "1 images are being built",
		},
		{
			name: "tags that clients choose", most: 4, perClient: 9, keys: []string{"a", "b"},
			clients: []string{"x", "y"}, key: "c", client: "z", byClient: true,
		},
		{
			name: "too many tags that clients choose", most: 4, perClient: 9, keys: []string{"a", "b", "c"},
			clients: []string{"x", "y", "z"}, key: "d", client: "z", byClient: true,
			want: "3 images of revisions",
		},
		{
			name: "joining costs nothing", most: 1, perClient: 1, keys: []string{"a"}, clients: []string{"x"},
			key: "a", client: "x",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newJobs(test.most, test.perClient)
			release := make(chan struct{})
			wait := func(context.Context) (source.Pinned, error) { <-release; return source.Pinned{}, nil }
			var all []*job
			for i, key := range test.keys {
				who := limit.Asker{Client: test.clients[i], ByClient: test.byClient}
				started, err := j.start(t.Context(), key, who, wait)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, started)
			}
			who := limit.Asker{Client: test.client, ByClient: test.byClient}
			started, err := j.start(t.Context(), test.key, who, wait)
			if test.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if test.want != "" && (!isBusy(err) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want Busy with %q", err, test.want)
			}
			if started != nil {
				all = append(all, started)
			}
			close(release)
			for _, started := range all {
				<-started.done
			}
			if again, err := j.start(
				t.Context(), test.key, limit.Asker{Client: test.client, ByClient: test.byClient},
				func(context.Context) (source.Pinned, error) { return source.Pinned{}, nil },
			); err != nil {
				t.Errorf("refused once there was room: %v", err)
			} else {
				<-again.done
			}
		})
	}
}

func TestJobsEnd(t *testing.T) {
	j := newJobs(2, 2)
	var all []*job
	for _, key := range []string{"a", "b"} {
		build := func(ctx context.Context) (source.Pinned, error) {
			<-ctx.Done()
			return source.Pinned{}, ctx.Err()
		}
		started, err := j.start(t.Context(), key, limit.Asker{Client: "someone"}, build)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, started)
	}
	j.close(t.Context())
	for _, ended := range all {
		if <-ended.done; !errors.Is(ended.err, context.Canceled) {
			t.Errorf("error %v, want that it was cancelled", ended.err)
		}
	}
	newJobs(1, 1).close(t.Context())
}

func TestJobsRememberFailures(t *testing.T) {
	for _, test := range []struct {
		name  string
		first error
		runs  int32 // of two requests, one after the other
	}{
		{"success", nil, 2},
		{"not found", status.Errorf(status.NotFound, "no"), 1},
		{"denied", status.Errorf(status.Denied, "no"), 1},
		{"busy", status.Errorf(status.Busy, "no"), 2},
		{"interrupted", status.Errorf(status.Interrupted, "no"), 1},
		{"damaged", status.Errorf(status.Damaged, "no"), 1},
		{"unavailable", status.Errorf(status.Unavailable, "no"), 2},
		{"the operator's", errors.New("disk full"), 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newJobs(10, 10)
			var runs atomic.Int32
			for range 2 {
				started, err := j.start(
					t.Context(),
					"git:latest",
					limit.Asker{Client: "someone"},
					func(context.Context) (source.Pinned, error) {
						runs.Add(1)
						return source.Pinned{}, test.first
					},
				)
				if err != nil {
					t.Fatal(err)
				}
				if <-started.done; !errors.Is(started.err, test.first) {
					t.Errorf("error %v, want %v", started.err, test.first)
				}
			}
			if runs.Load() != test.runs {
				t.Errorf("%d runs, want %d", runs.Load(), test.runs)
			}
		})
	}
}

func TestJobsSurvivePanics(t *testing.T) {
	j := newJobs(1, 1)
	for _, test := range []struct {
		name string
		do   work
		want string // in the error
	}{
		{"a panic", func(context.Context) (source.Pinned, error) { panic("boom") }, "boom"},
		{"after it", func(context.Context) (source.Pinned, error) { return source.Pinned{}, nil }, ""},
	} {
		started, err := j.start(t.Context(), "git:latest", limit.Asker{Client: "someone"}, test.do)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		_, err = started.await(t.Context(), nil)
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}
