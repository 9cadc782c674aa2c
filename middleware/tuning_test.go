package middleware

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// The process is set to building while there is a build, as long as nobody has set it to anything
// else.
func TestBusy(t *testing.T) {
	defer debug.SetGCPercent(int(garbage()))
	defer runtime.SetDefaultGOMAXPROCS()
	for _, test := range []struct {
		name             string
		variable         string
		threads, garbage int
		wantThreads      int
		wantGarbage      int
	}{
		{"usual", "", runtime.NumCPU(), usualGarbage, busyThreads * runtime.NumCPU(), busyGarbage},
		{"another number of cores", "", runtime.NumCPU() + 1, usualGarbage, runtime.NumCPU() + 1, busyGarbage},
		{
			"a number that somebody has set", strconv.Itoa(runtime.NumCPU()), runtime.NumCPU(), usualGarbage,
			runtime.NumCPU(), busyGarbage,
		},
		{"another limit of garbage", "", runtime.NumCPU(), 30, busyThreads * runtime.NumCPU(), 30},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("GOMAXPROCS", test.variable)
			synctest.Test(t, func(t *testing.T) {
				runtime.GOMAXPROCS(test.threads)
				debug.SetGCPercent(test.garbage)
				check := func(when string, threads, percent int) {
					t.Helper()
					synctest.Wait()
					if got := runtime.GOMAXPROCS(0); got != threads {
						t.Errorf("%s: %d threads, want %d", when, got, threads)
					}
					if got := int(garbage()); got != percent {
						t.Errorf("%s: %d %% of garbage, want %d", when, got, percent)
					}
				}
				var b busy
				one := b.begin()
				time.Sleep(busyAfter / 2)
				two := b.begin()
				check("with short builds", test.threads, test.garbage)
				time.Sleep(busyAfter / 2)
				check("with one long build", test.wantThreads, test.wantGarbage)
				time.Sleep(busyAfter / 2)
				check("with two long builds", test.wantThreads, test.wantGarbage)
				one()
				check("with one of them", test.wantThreads, test.wantGarbage)
				two()
				check("afterwards", test.threads, test.garbage)
				b.begin()()
				time.Sleep(busyAfter)
				check("after a short build", test.threads, test.garbage)
			})
		})
	}
}
