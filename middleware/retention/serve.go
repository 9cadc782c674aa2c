package retention

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
)

const (
	// period is how often all repositories are gone through.
	period = 24 * time.Hour
	// tickEvery is how often it is looked whether it is time for that.
	tickEvery = time.Hour
	// firstTick is how long after its start a registry looks first, at most: a registry that starts has
	// other things to do, and replicas often start together.
	firstTick = 10 * time.Minute
)

// Serve runs once a day, until ctx ends. From its beginning on, pulls are taken to be recorded.
func (r *Retention) Serve(ctx context.Context) {
	if _, err := r.watch.beat(ctx, r.options.Now()); err != nil && ctx.Err() == nil {
		logrus.WithError(err).Warn("nix: retention can't remember since when pulls are recorded")
	}
	wait := rand.N(firstTick)
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if err := r.tick(ctx); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warnf("nix: retention has stopped before its end, trying again in %v", tickEvery)
		}
		wait = tickEvery + rand.N(firstTick) - firstTick/2
	}
}

// tick runs if the last time was a day ago, and no other replica does.
func (r *Retention) tick(ctx context.Context) error {
	now := r.options.Now()
	watch, err := r.watch.beat(ctx, now)
	if err != nil || now.Sub(watch.Ran) < period {
		return err
	}
	if r.options.Lease != nil {
		release, ok := r.options.Lease(ctx, "retention")
		if !ok {
			return nil
		}
		defer release()
	}
	started := time.Now()
	result, err := r.Run(ctx, false)
	metrics.Retained.Add(float64(len(result.Removals)))
	if err != nil {
		return err
	}
	metrics.RetentionRan.SetToCurrentTime()
	logrus.WithField("took", time.Since(started).Round(time.Millisecond)).Infof(
		"nix: retention removed %d of %d tags of built images, and records: %s",
		len(result.Removals), result.Images, result.counts())
	return r.watch.ran(ctx, r.options.Now())
}

// counts tells how many records were removed of each kind.
func (r Result) counts() string {
	text := ""
	for _, kind := range r.Kinds() {
		if n := r.Records[kind]; n > 0 {
			text += fmt.Sprintf("%d %s, ", n, kind)
		}
	}
	if text == "" {
		return "none"
	}
	return text[:len(text)-2]
}
