package main

import (
	"os"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Nothing is traced that nobody reads, whatever the registry sets up when it is made.
func TestQuietTracing(t *testing.T) {
	for _, test := range []struct {
		name     string
		level    configuration.Loglevel
		exporter string // OTEL_TRACES_EXPORTER
		quiet    bool
	}{
		{"usual", "info", "", true},
		{"in a log that has room for it", "debug", "", false},
		{"asked for", "info", "console", false},
		{"not asked for", "info", "none", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_EXPORTER", test.exporter) // to be set back at the end
			if test.exporter == "" {
				if err := os.Unsetenv("OTEL_TRACES_EXPORTER"); err != nil {
					t.Fatal(err)
				}
			}
			otel.SetTracerProvider(sdktrace.NewTracerProvider())
			again, err := quietTracing(test.level)
			if err != nil {
				t.Fatal(err)
			}
			check := func(when string) {
				t.Helper()
				if _, quiet := otel.GetTracerProvider().(noop.TracerProvider); quiet != test.quiet {
					t.Errorf("%s, traces are off: %t", when, quiet)
				}
			}
			check("before the registry is made")
			otel.SetTracerProvider(sdktrace.NewTracerProvider())
			again()
			check("after that")
		})
	}
}
