package source

import (
	"context"
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
				l, err := newLookups(filepath.Join(t.TempDir(), "lookups.json"), test.refresh)
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
