package faulty_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"

	"github.com/nixery-registry/nixery-registry/internal/faulty"
)

// use makes a call of each operation, those of a writer included. It returns what failed.
func use(ctx context.Context, storage driver.StorageDriver) (failed []string) {
	step := func(op string, err error) {
		if err != nil {
			failed = append(failed, op)
		}
	}
	step("PutContent", storage.PutContent(ctx, "/a", []byte("12345678")))
	_, err := storage.GetContent(ctx, "/a")
	step("GetContent", err)
	_, err = storage.Stat(ctx, "/a")
	step("Stat", err)
	_, err = storage.List(ctx, "/")
	step("List", err)
	reader, err := storage.Reader(ctx, "/a", 0)
	step("Reader", err)
	if err == nil {
		reader.Close()
	}
	writer, err := storage.Writer(ctx, "/b", false)
	step("Writer", err)
	if err == nil {
		_, err = writer.Write([]byte("12345678"))
		step("Write", err)
		step("Commit", writer.Commit(ctx))
		step("Close", writer.Close())
	}
	step("Move", storage.Move(ctx, "/b", "/c"))
	step("Walk", storage.Walk(ctx, "/", func(driver.FileInfo) error { return nil }))
	step("Delete", storage.Delete(ctx, "/a"))
	return failed
}

// calls are those of use, in their order.
var calls = []string{
	"PutContent", "GetContent", "Stat", "List", "Reader", "Writer", "Write", "Commit", "Close", "Move", "Walk",
	"Delete",
}

// A fault happens at the call of its number, and what comes after is as the kind says.
func TestKinds(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) driver.StorageDriver{
		"inmemory": func(*testing.T) driver.StorageDriver { return inmemory.New() },
		"filesystem": func(t *testing.T) driver.StorageDriver {
			return filesystem.New(filesystem.DriverParameters{RootDirectory: t.TempDir(), MaxThreads: 25})
		},
	} {
		for _, kind := range append(faulty.Kinds(), faulty.Half, faulty.HalfSilently, faulty.Lose, faulty.None) {
			for n, op := range calls {
				t.Run(name+"/"+string(kind)+"/"+op, func(t *testing.T) {
					testKind(t, faulty.New(open(t)), kind, n)
				})
			}
		}
	}
}

func testKind(t *testing.T, storage *faulty.Driver, kind faulty.Kind, n int) {
	op := calls[n]
	storage.Inject(faulty.Fault{Kind: kind, At: n + 1})
	failed := use(t.Context(), storage)
	struck, ok := storage.Struck()
	if ok != (kind != faulty.None) || ok && struck.Op != op {
		t.Errorf("it struck %v, %v", struck, ok)
	}
	if storage.Ended() != (kind == faulty.EndBefore || kind == faulty.EndAfter) {
		t.Error("the process has ended, or not")
	}
	fails := slices.Contains(failed, op)
	switch kind {
	case faulty.None, faulty.Delay, faulty.HalfSilently, faulty.Lose:
		if fails {
			t.Errorf("the call failed, and %v", failed)
		}
	case faulty.Half:
		if fails != (op == "PutContent" || op == "Write") {
			t.Errorf("%v failed", failed)
		}
	case faulty.FailFrom, faulty.EndBefore, faulty.EndAfter:
		for _, later := range calls[n:] {
			ofWriter := later == "Write" || later == "Commit" || later == "Close"
			if !slices.Contains(failed, later) && (!ofWriter || !slices.Contains(failed, "Writer")) {
				t.Errorf("%s did not fail, %v did", later, failed)
			}
		}
	default:
		if !fails {
			t.Errorf("the call did not fail, %v did", failed)
		}
	}
}

// What a fault leaves is what its kind says.
func TestWhatIsLeft(t *testing.T) {
	for kind, want := range map[faulty.Kind]string{
		faulty.None: "12345678", faulty.Delay: "12345678", faulty.FailAfter: "12345678",
		faulty.Fail: "", faulty.FailFrom: "", faulty.NotFound: "", faulty.Lose: "",
		faulty.Half: "1234", faulty.HalfSilently: "1234",
		faulty.EndBefore: "", faulty.EndAfter: "12345678",
	} {
		t.Run(string(kind), func(t *testing.T) {
			storage := faulty.New(inmemory.New())
			puts := func(c faulty.Call) bool { return c.Op == "PutContent" }
			storage.Inject(faulty.Fault{Kind: kind, At: 2, Of: puts})
			if err := storage.PutContent(t.Context(), "/before", nil); err != nil {
				t.Fatal(err)
			}
			_ = storage.PutContent(t.Context(), "/a", []byte("12345678")) // what is left tells
			left, err := storage.StorageDriver.GetContent(t.Context(), "/a")
			if err != nil && !errors.As(err, new(driver.PathNotFoundError)) || string(left) != want {
				t.Errorf("%q is left, %v", left, err)
			}
		})
	}
}

// After Heal all is well, and the driver is one that a configuration names.
func TestHealAndRegister(t *testing.T) {
	storage := faulty.New(inmemory.New())
	faulty.Register("faultytest")
	if _, err := factory.Create(t.Context(), "faultytest", nil); err == nil {
		t.Error("a driver was made of nothing")
	}
	opened, err := factory.Create(t.Context(), "faultytest", map[string]any{"driver": storage})
	if err != nil {
		t.Fatal(err)
	}
	storage.Inject(faulty.Fault{Kind: faulty.FailFrom, At: 1})
	if err := opened.PutContent(t.Context(), "/a", nil); !errors.Is(err, faulty.Err) {
		t.Errorf("the error is %v", err)
	}
	storage.Heal()
	if failed := use(t.Context(), opened); failed != nil {
		t.Errorf("%v failed", failed)
	}
}
