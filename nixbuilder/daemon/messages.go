package daemon

import (
	"fmt"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// The daemon sends these messages while it works on a request, and at its end.
const (
	msgLast          = 0x616c7473
	msgError         = 0x63787470
	msgNext          = 0x6f6c6d67
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54
)

// These activities and results carry the log of a build.
const (
	activityBuild = 105

	resultBuildLogLine     = 101
	resultPostBuildLogLine = 107
)

// maxActivities is how many builds are told apart at a time. Lines of further builds come without a
// derivation.
const maxActivities = 1 << 10

// LogLine is a line that a builder wrote, or the daemon itself.
type LogLine struct {
	// Drv is the derivation whose builder wrote the line; empty for warnings and errors of the
	// daemon.
	Drv store.Path
	// Builder is the URL of a remote builder that has taken Drv, in a line that tells of that and has
	// no Text.
	Builder string
	// Text has no line end and no control characters. A line longer than 16 KiB is cut.
	Text string
}

// messages reads to the end of the daemon's work and passes lines to onLog, which may be nil. It
// fails with an *Error if the daemon reports one.
func (r *reader) messages(onLog func(LogLine)) error {
	if onLog == nil {
		onLog = func(LogLine) {}
	}
	builds := map[uint64]store.Path{}
	for {
		message := r.uint()
		if r.err != nil {
			return r.err
		}
		switch message {
		case msgLast:
			return nil
		case msgError:
			return r.reportedError()
		case msgNext:
			for line := range strings.Lines(plain(r.text(keepLineBytes))) {
				onLog(LogLine{Text: strings.TrimSuffix(line, "\n")})
			}
		case msgStartActivity:
			activity := r.uint()
			r.uint() // level
			kind := r.uint()
			r.skipText()
			first, machine := r.fields()
			r.uint() // parent
			if drv, err := store.ParsePath(first); kind == activityBuild && err == nil && len(builds) < maxActivities {
				builds[activity] = drv
				if machine = plain(machine); machine != "" {
					onLog(LogLine{Drv: drv, Builder: machine})
				}
			}
		case msgStopActivity:
			delete(builds, r.uint())
		case msgResult:
			activity := r.uint()
			kind := r.uint()
			first, _ := r.fields()
			if r.err == nil && (kind == resultBuildLogLine || kind == resultPostBuildLogLine) {
				line := strings.ReplaceAll(strings.TrimRight(plain(first), "\n"), "\n", " ")
				onLog(LogLine{Drv: builds[activity], Text: line})
			}
		default:
			r.fail(fmt.Errorf("unknown message %#x", message))
		}
	}
}

// fields reads the values of an activity or a result and returns the first two where they are
// strings.
func (r *reader) fields() (first, second string) {
	const number, text = 0, 1
	n := r.count()
	for i := 0; i < n && r.err == nil; i++ {
		switch kind := r.uint(); {
		case r.err != nil:
		case kind == number:
			r.uint()
		case kind == text && i == 0:
			first = r.text(keepLineBytes)
		case kind == text && i == 1:
			second = r.text(keepLineBytes)
		case kind == text:
			r.skipText()
		default:
			r.fail(fmt.Errorf("unknown kind of field %d", kind))
		}
	}
	return first, second
}

func (r *reader) reportedError() error {
	r.skipText() // always "Error"
	r.uint()     // level
	r.skipText() // name, no longer used
	message := plain(r.text(keepErrorBytes))
	r.uint() // position, never sent
	for n := r.count(); n > 0 && r.err == nil; n-- {
		r.uint()
		r.skipText()
	}
	if r.err != nil {
		return r.err
	}
	return &Error{strings.TrimSpace(message)}
}
