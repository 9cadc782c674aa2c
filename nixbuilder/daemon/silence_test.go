package daemon

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A daemon that lives and says nothing is given up after a time that depends on the question. What it
// says counts, also if that is no answer yet.
func TestSilentDaemon(t *testing.T) {
	for _, test := range []struct {
		name string
		ask  func(context.Context, *Conn) error
		says int // lines, a minute apart
		want time.Duration
	}{
		{"does it answer", func(ctx context.Context, c *Conn) error { return c.answers(ctx) }, 0, idleSilence},
		{"a question about the store", func(ctx context.Context, c *Conn) error {
			_, err := c.Closure(ctx, []store.Path{pathA})
			return err
		}, 0, storeSilence},
		{"a collection", func(ctx context.Context, c *Conn) error {
			_, err := c.Collect(ctx, 1)
			return err
		}, 0, collectSilence},
		{"a question to caches", func(ctx context.Context, c *Conn) error {
			_, err := c.QueryMissing(ctx, []DerivedPath{outputs(t, drvA)}, nil)
			return err
		}, 5, cacheSilence + 5*time.Minute},
		{"a build", func(ctx context.Context, c *Conn) error {
			_, err := c.Build(ctx, []DerivedPath{outputs(t, drvA)}, nil)
			return err
		}, 100, 20*time.Minute + 100*time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answers, daemon := io.Pipe()
				go func() { _, _ = daemon.Write(words(daemonMagic, protocolVersion, "2.8.0", msgLast, msgLast)) }()
				peer := &stoppable{script: script{answers: answers}, pipe: answers}
				c, err := converse(t.Context(), peer, Options{Silence: 20 * time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					for range test.says {
						time.Sleep(time.Minute)
						_, _ = daemon.Write(words(msgNext, "a line"))
					}
				}()
				begun := time.Now()
				err = test.ask(t.Context(), c)
				if took := time.Since(begun); !errors.Is(err, ErrSilent) || took != test.want {
					t.Errorf("%v after %v, want %v after %v", err, took, ErrSilent, test.want)
				}
				if !errors.Is(c.Err(), ErrSilent) {
					t.Errorf("the connection is as good as before: %v", c.Err())
				}
			})
		})
	}
}
