package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	unknownClients = 8
	unknownNames   = 1_000
	// besideLeast is how much of what is served to an idle registry's clients is to be served
	// beside evaluations.
	besideLeast = 0.9
)

// besideUnknown measures how many stored manifests are served while clients ask for names that have
// to be evaluated.
func (b *bench) besideUnknown(ctx context.Context, name string) error {
	s, err := b.start(ctx, settings{errorsOnly: true})
	if err != nil {
		return err
	}
	defer s.stop()
	path := "/v2/" + name + "/manifests/latest"
	var idle, beside []throughput
	var evaluated []int
	for turn := range b.runs * b.turns {
		b.progress("stored: beside unknown names, turn %d of %d", turn+1, b.runs*b.turns)
		alone, err := s.wrk(ctx, path, false)
		if err != nil {
			return err
		}
		stop := s.askUnknown(ctx, fmt.Sprintf("no%d-%d", turn, time.Now().Unix()))
		with, err := s.wrk(ctx, path, true) // for as long as there are names
		asked, askErr := stop()
		if err != nil || askErr != nil {
			return fmt.Errorf("asking for unknown names: %w", errors.Join(err, askErr))
		}
		idle, beside, evaluated = append(idle, alone), append(beside, with), append(evaluated, asked)
	}
	ratio := ratios(beside, idle, rateRatio)
	t := newTable(
		"stored manifests, a second", "beside unknown names", "**ratio**", "p99", "beside", "names evaluated in 5 s",
	)
	t.row(
		fmt.Sprintf("%.0f", medianOf(idle, throughput.rate)),
		fmt.Sprintf("%.0f", medianOf(beside, throughput.rate)), ratio,
		medianOf(idle, throughput.slowest), medianOf(beside, throughput.slowest), median(evaluated),
	)
	fmt.Fprintln(b.out, t)
	b.aimLeast("stored: throughput beside unknown names, against idle", ratio, besideLeast, "%.2f")
	return nil
}

// askUnknown has clients ask for names that no package has, until stop is called. Stop says for how
// many they had an answer.
func (s *server) askUnknown(ctx context.Context, prefix string) (stop func() (answered int, err error)) {
	ctx, cancel := context.WithCancel(ctx)
	var next, done atomic.Int64
	var failed atomic.Pointer[error]
	var clients sync.WaitGroup
	for range unknownClients {
		clients.Go(func() {
			for n := next.Add(1); n <= unknownNames && ctx.Err() == nil; n = next.Add(1) {
				status, body, err := s.get(ctx, fmt.Sprintf("/v2/%s-%d/manifests/latest", prefix, n))
				switch {
				case ctx.Err() != nil:
					return
				case err == nil && status != http.StatusNotFound:
					err = fmt.Errorf("status %d, %s", status, body)
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	return func() (int, error) {
		cancel()
		clients.Wait()
		if err := failed.Load(); err != nil {
			return 0, *err
		}
		return int(done.Load()), nil
	}
}
