package source

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An answer that another caller is waiting for is believed for as long as any answer is, and no
// longer.
func TestLookupsJoin(t *testing.T) {
	for _, test := range []struct {
		name    string
		refresh time.Duration
		want    string
	}{
		{"believed", time.Minute, "before"},
		{"too old", time.Second, "after"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, err := newLookups(filepath.Join(t.TempDir(), "lookups.json"), test.refresh, lookupTime)
				if err != nil {
					t.Fatal(err)
				}
				answers, answer := make(chan string, 2), make(chan struct{})
				answers <- "before"
				answers <- "after"
				ask := func(context.Context) (string, error) {
					revision := <-answers
					if revision == "before" {
						<-answer // the remote has answered, but it is far away
					}
					return revision, nil
				}
				var all sync.WaitGroup
				all.Go(func() {
					if got, _, err := l.get(t.Context(), "main", ask); got != "before" || err != nil {
						t.Errorf("the first is told %s, %v", got, err)
					}
				})
				time.Sleep(10 * time.Second)
				all.Go(func() {
					if got, _, err := l.get(t.Context(), "main", ask); got != test.want || err != nil {
						t.Errorf("who comes later is told %s, %v, want %s", got, err, test.want)
					}
				})
				synctest.Wait()
				close(answer)
				all.Wait()
			})
		})
	}
}

// A remote that keeps silent is asked for lookupTime, and then not for a while: who has an older
// answer gets it. Once the remote is back, its answer is believed at once.
func TestLookupsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := newLookups(filepath.Join(t.TempDir(), "lookups.json"), time.Hour, lookupTime)
		if err != nil {
			t.Fatal(err)
		}
		asked, silent := 0, false
		ask := func(ctx context.Context) (string, error) {
			if asked++; silent {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "revision", nil
		}
		get := func(when string, took time.Duration, stale bool, times int) {
			t.Helper()
			begun, before := time.Now(), asked
			revision, why, err := l.get(t.Context(), "main", ask)
			if revision != "revision" || err != nil || (why != nil) != stale {
				t.Errorf("%s: %s, stale for %v, %v", when, revision, why, err)
			}
			if got := time.Since(begun); got != took || asked-before != times {
				t.Errorf("%s: %d questions, answered after %v, want %d, %v", when, asked-before, got, times, took)
			}
		}
		get("the first time", 0, false, 1)
		time.Sleep(2 * time.Hour)
		silent = true
		get("silence", lookupTime, true, 1)
		get("right after it", 0, true, 0)
		time.Sleep(failureMemory)
		get("later", lookupTime, true, 1)
		time.Sleep(failureMemory)
		silent = false
		get("it is back", 0, false, 1)
		get("after that", 0, false, 0)
	})
}

// What was written while the clock was ahead does not count until then.
func TestLookupsFuture(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lookups.json")
	ahead := time.Now().AddDate(10, 0, 0).Format(time.RFC3339)
	if err := os.WriteFile(file, []byte(`{"main": {"revision": "old", "asked": "`+ahead+`"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := newLookups(file, time.Hour, lookupTime)
	if err != nil {
		t.Fatal(err)
	}
	if revision, ok := l.current("main"); ok {
		t.Errorf("%s is current", revision)
	}
	for range 2 {
		revision, stale, err := l.get(t.Context(), "main", func(context.Context) (string, error) { return "new", nil })
		if revision != "new" || stale != nil || err != nil {
			t.Errorf("%s, %v, %v", revision, stale, err)
		}
	}
}

// Who has an older answer waits a second for a silent remote, and not at all while others have
// waited so long. Who has none, or no patience was asked of, waits for the answer.
func TestLookupsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := newLookups(filepath.Join(t.TempDir(), "lookups.json"), time.Hour, lookupTime)
		if err != nil {
			t.Fatal(err)
		}
		const slow = 10 * time.Second
		answer := "first"
		ask := func(context.Context) (string, error) {
			time.Sleep(slow)
			return answer, nil
		}
		get := func(ctx context.Context, when, want string, took time.Duration, stale bool) {
			t.Helper()
			begun := time.Now()
			revision, why, err := l.get(ctx, "main", ask)
			if revision != want || err != nil || (why != nil) != stale || time.Since(begun) != took {
				t.Errorf("%s: %s, stale for %v, %v, after %v", when, revision, why, err, time.Since(begun))
			}
		}
		patient := WithPatience(t.Context(), time.Second)
		get(patient, "nothing is known", "first", slow, false)
		time.Sleep(2 * time.Hour)
		answer = "second"
		get(patient, "something is", "first", time.Second, true)
		get(patient, "another one", "first", 0, true)
		get(t.Context(), "who waits", "second", slow-time.Second, false)
		get(patient, "after that", "second", 0, false)
	})
}

// Somebody who knows of a change has the remote asked again by the next caller, once. Who doubts an
// answer has it asked again if that is older than a second.
func TestLookupsDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := newLookups(filepath.Join(t.TempDir(), "lookups.json"), time.Hour, lookupTime)
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		get := func(ctx context.Context, when string, want int) {
			t.Helper()
			_, current := l.current("main")
			if _, stale, err := l.get(ctx, "main", func(context.Context) (string, error) {
				asked++
				return "revision", nil
			}); stale != nil || err != nil || asked != want {
				t.Errorf("%s: asked %d times, want %d; %v, %v", when, asked, want, stale, err)
			}
			if _, now := l.current("main"); !now || current && asked != want && ctx == t.Context() {
				t.Errorf("%s: %t, %t", when, current, now)
			}
		}
		get(t.Context(), "at first", 1)
		time.Sleep(time.Minute)
		get(t.Context(), "a minute later", 1)
		get(WithDoubt(t.Context()), "with doubt", 2)
		get(WithDoubt(t.Context()), "with doubt, at once again", 2)
		time.Sleep(2 * time.Second)
		l.doubt()
		if _, ok := l.current("main"); ok {
			t.Error("what is in doubt is current")
		}
		get(t.Context(), "after the news", 3)
		get(t.Context(), "and later", 3)
	})
}
