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
func TestRuntimeTuning(t *testing.T) {
	defer debug.SetGCPercent(int(gcPercent()))
	defer runtime.SetDefaultGOMAXPROCS()
	for _, test := range []struct {
		name             string
		variable         string
		threads, garbage int
		wantThreads      int
		wantGarbage      int
	}{
		{"usual", "", runtime.NumCPU(), defaultGCPercent, buildThreads * runtime.NumCPU(), buildGCPercent},
		{"another number of cores", "", runtime.NumCPU() + 1, defaultGCPercent, runtime.NumCPU() + 1, buildGCPercent},
		{
			"a number that somebody has set", strconv.Itoa(runtime.NumCPU()), runtime.NumCPU(), defaultGCPercent,
			runtime.NumCPU(), buildGCPercent,
		},
		{"another limit of garbage", "", runtime.NumCPU(), 30, buildThreads * runtime.NumCPU(), 30},
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
					if got := int(gcPercent()); got != percent {
						t.Errorf("%s: %d %% of garbage, want %d", when, got, percent)
					}
				}
				var b runtimeTuning
				packOne, one := b.build()
				packTwo, two := b.build()
				_, evaluated := b.build()
				time.Sleep(2 * tuneAfter)
				check("with builds that pack nothing", test.threads, test.garbage)
				evaluated()
				packOne()
				time.Sleep(tuneAfter / 2)
				packTwo()
				packTwo()
				check("with short builds", test.threads, test.garbage)
				time.Sleep(tuneAfter / 2)
				check("with one long build", test.wantThreads, test.wantGarbage)
				time.Sleep(tuneAfter / 2)
				check("with two long builds", test.wantThreads, test.wantGarbage)
				one()
				check("with one of them", test.wantThreads, test.wantGarbage)
				two()
				check("afterwards", test.threads, test.garbage)
				pack, end := b.build()
				pack()
				end()
				time.Sleep(tuneAfter)
				check("after a short build", test.threads, test.garbage)
			})
		})
	}
}
