package imagestore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestInFlightCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c inFlightCommits
		waiting := func(ctx context.Context, repository string) <-chan error {
			done := make(chan error, 1)
			go func() { done <- c.wait(ctx, repository) }()
			synctest.Wait()
			return done
		}
		ended := func(what string, done <-chan error, want error) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-done:
				if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", what, err, want)
				}
			default:
				t.Errorf("%s: still waiting", what)
			}
		}
		first, second := c.begin("a"), c.begin("a")
		ended("another repository", waiting(t.Context(), "b"), nil)
		ctx, cancel := context.WithCancel(t.Context())
		gone, patient := waiting(ctx, "a"), waiting(t.Context(), "a")
		cancel()
		ended("a client that went away", gone, context.Canceled)
		first()
		third := c.begin("a")
		synctest.Wait()
		select {
		case <-patient:
			t.Error("one of two commits was not waited for")
		default:
		}
		second()
		ended("with one that began later", patient, nil)
		third()
		ended("with none", waiting(t.Context(), "a"), nil)
		if len(c.underWay) != 0 {
			t.Errorf("left behind: %v", c.underWay)
		}
	})
}
