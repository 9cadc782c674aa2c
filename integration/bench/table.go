package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A table is Markdown.
type table struct{ text strings.Builder }

func newTable(header ...string) *table {
	t := &table{}
	fmt.Fprintf(&t.text, "| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat("---|", len(header)))
	return t
}

// row takes texts, times, ratios (float64), and counts (int).
func (t *table) row(cells ...any) {
	for _, cell := range cells {
		switch value := cell.(type) {
		case float64:
			fmt.Fprintf(&t.text, "| %.2f ", value)
		case time.Duration:
			fmt.Fprintf(&t.text, "| %s ", duration(value))
		default:
			fmt.Fprintf(&t.text, "| %v ", value)
		}
	}
	t.text.WriteString("|\n")
}

func (t *table) String() string { return t.text.String() }

// duration writes three or so digits.
func duration(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	}
	return fmt.Sprintf("%.2f ms", milliseconds(d))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

type number interface{ ~int | ~int64 | ~float64 }

func kilobytes(n int64) string { return fmt.Sprintf("%.1f kB", float64(n)/1e3) }

// median of an even number of values is the upper of the two in the middle. There must be one.
func median[N number](values []N) N { return quantile(values, 0.5) }

// quantile is the least value that at least that part of all values does not exceed, or the next.
// There must be one.
func quantile[N number](values []N, part float64) N {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(part*float64(len(sorted))), len(sorted)-1)]
}

// medianOf is the median of one figure of many measurements.
func medianOf[T any, N number](all []T, figure func(T) N) N {
	values := make([]N, len(all))
	for i, one := range all {
		values[i] = figure(one)
	}
	return median(values)
}

// ratios divides what was measured in the same run, so that a machine that is slow for a while is
// so for both, and returns the median.
func ratios[A, B any](ours []A, others []B, ratio func(A, B) float64) float64 {
	values := make([]float64, len(ours))
	for i := range ours {
		values[i] = ratio(ours[i], others[i])
	}
	return median(values)
}
