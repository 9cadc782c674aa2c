package eval

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
)

func TestOutcomeOf(t *testing.T) {
	for _, test := range []struct {
		name string
		end  ending
		err  error
		want string
	}{
		{"answers", ending{well: true}, nil, metrics.EvaluationOK},
		{"fails", ending{message: "attribute missing"}, nil, metrics.EvaluationFailed},
		{"processor", ending{cpu: true, limit: true}, nil, metrics.EvaluationTime},
		{"fetches for too long", ending{slow: true}, nil, metrics.EvaluationTime},
		{"memory", ending{limit: true}, nil, metrics.EvaluationMemory},
		{
			"ended", ending{}, fmt.Errorf("evaluating: %w", endedError{errors.New("signal: terminated")}),
			metrics.EvaluationEnded,
		},
		{"stuck", ending{}, fmt.Errorf("evaluating: %w", endedError{errStuck}), metrics.EvaluationEnded},
		{"nobody waits", ending{}, fmt.Errorf("evaluating: %w", context.Canceled), metrics.EvaluationEnded},
		{"no Nix", ending{}, errors.New("no such file"), metrics.EvaluationFailed},
	} {
		if got := outcomeOf(&test.end, test.err); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}
