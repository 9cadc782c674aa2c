package faulty

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
)

// Err is the fault of calls that fail, and ErrEnded that of all calls of a process that has ended.
var (
	Err      = errors.New("injected fault")
	ErrEnded = errors.New("the process has ended")
)

// A Kind of fault.
type Kind string

// What happens at the call.
const (
	None         Kind = ""
	Fail         Kind = "fail"          // it is not done, and fails
	FailAfter    Kind = "fail after"    // it is done, and fails
	FailFrom     Kind = "fail from"     // it and all later ones fail, until Heal
	NotFound     Kind = "not found"     // it is not done, and its path is said not to be there
	Half         Kind = "half"          // half of what it writes is written, and it fails; others are done
	HalfSilently Kind = "half silently" // the same, without a failure
	Lose         Kind = "lose"          // nothing is written, without a failure; calls that don't write are done
	Delay        Kind = "delay"         // it waits for Fault.Delay, or for its context to end
	EndBefore    Kind = "end before"    // the process ends, and the call is not done
	EndAfter     Kind = "end after"     // the process ends when the call is done
)

// Kinds are those that no storage excludes. Atomic ones have no others.
func Kinds() []Kind {
	return []Kind{Fail, FailAfter, FailFrom, NotFound, Delay, EndBefore, EndAfter}
}

// A Call is one of the storage.
type Call struct {
	Op   string // such as PutContent, or Commit for that of a writer
	Path string
}

func (c Call) String() string { return c.Op + " " + c.Path }

// Writes tells whether the call changes what is stored.
func (c Call) Writes() bool {
	return slices.Contains([]string{"PutContent", "Write", "Commit", "Move", "Delete"}, c.Op)
}

// A Fault is what happens at a call.
type Fault struct {
	Kind  Kind
	At    int             // the number of the call, from 1 since Inject
	Of    func(Call) bool // which calls count; nil: all
	Delay time.Duration   // for Kind Delay
}

// A Driver is a storage driver with a fault. It is safe for concurrent use.
type Driver struct {
	driver.StorageDriver // without the fault

	mu     sync.Mutex
	fault  Fault
	calls  int
	struck Call // where the fault happened; zero: not yet
	ended  bool
	before func(Call)
}

// New returns a driver without a fault.
func New(storage driver.StorageDriver) *Driver { return &Driver{StorageDriver: storage} }

// Inject replaces the fault, and counts from 1 again. A process that has ended stays so.
func (d *Driver) Inject(fault Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.calls, d.struck = fault, 0, Call{}
}

// Heal removes the fault. Calls are counted on, and Struck stays.
func (d *Driver) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = Fault{}
}

// Before has a function called before each call that begins, one at a time; nil: none. It may not
// use the Driver.
func (d *Driver) Before(do func(Call)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = do
}

// Calls is how many calls that count have begun since Inject, or New.
func (d *Driver) Calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

// Struck is the call at which the fault happened. It is false if there were not that many.
func (d *Driver) Struck() (Call, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.struck, d.struck != Call{}
}

// Ended tells whether the process has ended.
func (d *Driver) Ended() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

// begin counts a call and returns its fault, if it has one.
func (d *Driver) begin(call Call) Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return Fault{Kind: EndBefore}
	}
	if d.before != nil {
		d.before(call)
	}
	if d.fault.Of != nil && !d.fault.Of(call) {
		return Fault{}
	}
	d.calls++
	if d.fault.Kind == None || d.calls != d.fault.At && (d.fault.Kind != FailFrom || d.calls < d.fault.At) {
		return Fault{}
	}
	if d.calls == d.fault.At {
		d.struck = call
	}
	if d.fault.Kind == EndBefore {
		d.ended = true
	}
	return d.fault
}

// end is called when a call was done.
func (d *Driver) end(fault Fault, err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fault.Kind == EndAfter {
		d.ended = true
	}
	switch {
	case d.ended: // while it was done
		return ErrEnded
	case fault.Kind == FailAfter:
		return fmt.Errorf("%w, but done", Err)
	}
	return err
}

// do makes a call. Half does half of what it writes; it is nil if the call writes nothing.
func do[T any](ctx context.Context, d *Driver, call Call, whole, half func() (T, error)) (result T, err error) {
	fault := d.begin(call)
	switch fault.Kind {
	case Fail, FailFrom:
		return result, fmt.Errorf("%s: %w", call, Err)
	case EndBefore:
		return result, ErrEnded
	case NotFound:
		return result, driver.PathNotFoundError{Path: call.Path, DriverName: d.Name()}
	case Delay:
		select {
		case <-time.After(fault.Delay):
		case <-ctx.Done():
		}
	case Lose:
		if call.Writes() {
			return result, nil
		}
	case Half, HalfSilently:
		if half != nil {
			whole = half
		}
	}
	result, err = whole()
	if fault.Kind == Half && half != nil && err == nil {
		err = fmt.Errorf("%s: %w in the middle", call, Err)
	}
	return result, d.end(fault, err)
}

// Register makes Drivers known to the registry's configuration as the storage of a name. The section
// of that name has the Driver itself as its parameter "driver". It is called once, before any registry
// is started.
func Register(name string) { factory.Register(name, opened{}) }

type opened struct{}

// Create implements factory.StorageDriverFactory.
func (opened) Create(_ context.Context, parameters map[string]any) (driver.StorageDriver, error) {
	d, ok := parameters["driver"].(*Driver)
	if !ok {
		return nil, fmt.Errorf("driver: a %T is no *faulty.Driver", parameters["driver"])
	}
	return d, nil
}
