package records

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// SweepAtOnce is how many records a Sweep asks the State for at a time: little, as pulls use the
// State, too.
const SweepAtOnce = 4

// A Sweep goes through the records of a kind and removes those that are of no use any more. A record
// that was put at Before or later stays in any case.
type Sweep[V any] struct {
	Kind   string
	Before time.Time
	// Gone tells whether an older record is of no use. One that is damaged never is. It is called for
	// several records at a time.
	Gone func(context.Context, V) (bool, error)
	// Recheck has Gone asked again when the record was deleted, which is then put back if it is of use.
	// So nothing is lost to whoever writes first the record and then what it is of, and at last looks
	// whether the record is there (Table.Ensure): one of the two sees what the other has done.
	Recheck bool
	// Stays is called for each record that stays, one at a time; nil: younger ones are not read.
	Stays func(V)
}

// Run returns how many records it has removed, also with an error. What it has not come to is left
// for the next time.
func (s Sweep[V]) Run(ctx context.Context, state Dated) (removed int, err error) {
	directories, err := state.List(ctx, s.Kind)
	if err != nil {
		return 0, fmt.Errorf("listing records %s: %w", s.Kind, err)
	}
	stays := make(chan V)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for value := range stays {
			s.Stays(value)
		}
	}()
	var count atomic.Int64
	for _, directory := range directories {
		if err = s.directory(ctx, state, s.Kind+"/"+directory, stays, &count); err != nil {
			break
		}
	}
	close(stays)
	<-told
	return int(count.Load()), err
}

// directory sweeps the records of one of the directories that a Table spreads them over.
func (s Sweep[V]) directory(
	ctx context.Context, state Dated, directory string, stays chan<- V, removed *atomic.Int64,
) error {
	names, err := state.List(ctx, directory)
	if err != nil {
		return fmt.Errorf("listing records %s: %w", directory, err)
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(SweepAtOnce)
	for _, name := range names {
		all.Go(func() error {
			gone, err := s.record(ctx, state, directory+"/"+name, stays)
			if errors.Is(err, ErrNotFound) {
				return nil // somebody else removed it
			}
			if err != nil {
				return fmt.Errorf("sweeping record %s/%s: %w", directory, name, err)
			}
			if gone {
				removed.Add(1)
			}
			return nil
		})
	}
	return all.Wait()
}

// record removes a record if it is of no use.
func (s Sweep[V]) record(ctx context.Context, state Dated, key string, stays chan<- V) (gone bool, err error) {
	written, err := state.Written(ctx, key)
	old := written.Before(s.Before)
	if err != nil || !old && s.Stays == nil {
		return false, err
	}
	record, err := state.Get(ctx, key)
	if err != nil {
		return false, err
	}
	value, damage := unseal[V](record)
	if gone = damage != nil && old; damage == nil && old {
		if gone, err = s.Gone(ctx, value); err != nil {
			return false, err
		}
	}
	if gone {
		return s.remove(ctx, state, key, record, value)
	}
	if s.Stays != nil && damage == nil {
		stays <- value
	}
	return false, nil
}

// remove deletes a record, and puts it back if it is of use again by now.
func (s Sweep[V]) remove(ctx context.Context, state Dated, key string, record []byte, value V) (gone bool, err error) {
	if err := state.Delete(ctx, key); err != nil || !s.Recheck {
		return err == nil, err
	}
	ctx = context.WithoutCancel(ctx) // it is not lost because it is time to end
	if gone, err = s.Gone(ctx, value); gone && err == nil {
		return true, nil
	}
	return false, errors.Join(err, state.Put(ctx, key, record))
}
