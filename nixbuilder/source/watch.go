package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// watched are the events by which a directory's content or a file's status changes.
const watched = unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MODIFY |
	unix.IN_CLOSE_WRITE | unix.IN_MOVE_SELF | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// zfsMagic is the type that statfs(2) gives for ZFS, which is not part of Linux.
const zfsMagic = 0x2fc12fc1

// Watches know what has happened in directories. The kernel (inotify(7)) notes an event before the
// process that caused it goes on, and Watches read events when they are asked: no edit is ever
// overlooked. Libraries for inotify read events later, in a goroutine. All package sets of a
// process share one instance, since a user may have few (fs.inotify.max_user_instances, mostly
// 128). Watches are safe for concurrent use.
//
// The kernel tells nothing of three changes: a write through the mapping of a file that is no
// longer open for writing, a write through another hard link, and a mount over something in a
// directory.
type Watches struct {
	open func() (fd int, err error)

	mu     sync.Mutex
	fd     int // negative: none yet
	places map[int32][]watchedPlace
	events [16 << 10]byte
}

// A watchedPlace is a directory with its path in one of the sets.
type watchedPlace struct {
	of  *watch
	rel string
}

// NewWatches makes Watches of nothing.
func NewWatches() *Watches {
	return &Watches{
		open:   func() (int, error) { return unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC) },
		fd:     -1,
		places: make(map[int32][]watchedPlace),
	}
}

// A watch is of the directories of one set. The Watches' mutex guards its fields.
type watch struct {
	all *Watches

	places map[int32]uint64 // by the kernel's number, the walk that found it last
	walk   uint64           // counts walks
	failed error            // why some directory is not watched
	moved  bool             // something has happened that only a walk can tell
	edited map[string]bool  // directories in which something has happened to files alone
}

// newWatch fails if the user has as many instances as the host permits.
func (all *Watches) newWatch() (*watch, error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.fd < 0 {
		fd, err := all.open()
		if err != nil {
			return nil, fmt.Errorf("watching directories: %w", err)
		}
		all.fd = fd
	}
	return &watch{all: all, places: make(map[int32]uint64), moved: true}, nil
}

// begin is called before a walk, which then adds each directory.
func (w *watch) begin() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.poll()
	w.walk++
	w.moved = false
	w.edited = nil
}

// end is called after a walk without failures. It ends the watch of directories that the walk did
// not find.
func (w *watch) end() error {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.forget(func(walk uint64) bool { return walk < w.walk })
	return w.failed
}

// close ends the watch. It may take some tenths of a second.
func (w *watch) close() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.forget(func(uint64) bool { return true })
}

// add watches a directory from now on. Its name must lead over no symbolic link. If it can't be
// watched, or the host permits no more, the watch is never quiet again. It is safe for concurrent
// use.
func (w *watch) add(dir, rel string) {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	if w.failed != nil {
		return
	}
	if !isLocal(dir) {
		w.failed = errNotLocal
		return
	}
	number, err := unix.InotifyAddWatch(w.all.fd, dir, watched)
	if err != nil {
		w.failed = fmt.Errorf("watching directories: %w", err)
		return
	}
	place := int32(number)
	others := w.all.places[place]
	at := slices.IndexFunc(others, func(other watchedPlace) bool { return other.of == w })
	switch {
	case at < 0:
		w.all.places[place] = append(others, watchedPlace{w, rel})
	case w.places[place] == w.walk:
		w.moved = true // it is in the set twice, as mounts can have it
	default:
		others[at].rel = rel
	}
	w.places[place] = w.walk
}

// errNotLocal: others may write to the directory without this kernel's knowledge.
var errNotLocal = errors.New("it is on a file system that not only this kernel writes to")

// isLocal tells whether a directory is on a file system that only this kernel writes to.
func isLocal(dir string) bool {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return false
	}
	switch uint32(stat.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC,
		unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, zfsMagic:
		return true
	}
	return false
}

// forget ends the watch of some places. Places of other sets, too, stay watched for these.
func (w *watch) forget(old func(walk uint64) bool) {
	removed := 0
	for place, walk := range w.places {
		if !old(walk) {
			continue
		}
		delete(w.places, place)
		others := slices.DeleteFunc(w.all.places[place], func(other watchedPlace) bool { return other.of == w })
		if len(others) > 0 {
			w.all.places[place] = others
			continue
		}
		delete(w.all.places, place)
		_, _ = unix.InotifyRmWatch(w.all.fd, uint32(place)) // it fails if the directory is gone
		// The kernel sends an event for each end of a watch, and keeps 16,384 events at most.
		if removed++; removed%1000 == 0 {
			w.all.poll()
		}
	}
}

// quiet tells whether nothing has happened in any of the directories since the walk began.
func (w *watch) quiet() bool {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.poll()
	return w.failed == nil && !w.moved && len(w.edited) == 0
}

// takeEdited returns the directories in which files alone have changed, and counts them as quiet
// from now on. It is false if anything else has happened.
func (w *watch) takeEdited() (dirs []string, ok bool) {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.poll()
	if w.failed != nil || w.moved {
		return nil, false
	}
	dirs = slices.Sorted(maps.Keys(w.edited))
	w.edited = nil
	return dirs, true
}

// poll reads the events since the last call.
func (all *Watches) poll() {
	for {
		n, err := unix.Read(all.fd, all.events[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			all.lose()
		}
		if err != nil || n <= 0 {
			return
		}
		for events := all.events[:n]; len(events) >= unix.SizeofInotifyEvent; {
			place := int32(binary.NativeEndian.Uint32(events[0:]))
			mask := binary.NativeEndian.Uint32(events[4:])
			size := binary.NativeEndian.Uint32(events[12:]) // of the name
			all.note(place, mask, size > 0)
			events = events[unix.SizeofInotifyEvent+size:]
		}
	}
}

// note takes in an event. Named: it is about an entry of the directory, not the directory itself.
func (all *Watches) note(place int32, mask uint32, named bool) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		all.lose()
		return
	}
	for _, at := range all.places[place] {
		if !named || mask&unix.IN_ISDIR != 0 {
			at.of.moved = true
			continue
		}
		if at.of.edited == nil {
			at.of.edited = make(map[string]bool)
		}
		at.of.edited[at.rel] = true
	}
	if mask&unix.IN_IGNORED != 0 {
		for _, at := range all.places[place] {
			delete(at.of.places, place)
		}
		delete(all.places, place)
	}
}

// lose makes all sets be walked again.
func (all *Watches) lose() {
	for _, places := range all.places {
		for _, at := range places {
			at.of.moved = true
		}
	}
}

// advice says what the operator can do about a set that can't be watched.
func advice(err error) string {
	switch {
	case errors.Is(err, errNotLocal):
		return "on a local file system that is not needed"
	case errors.Is(err, unix.ENOSPC):
		return "raise fs.inotify.max_user_watches with sysctl, to more than the set has directories"
	case errors.Is(err, unix.EMFILE):
		return "raise fs.inotify.max_user_instances with sysctl, " +
			"or end what else watches files as the user of the registry"
	}
	return "it is tried again later"
}
