package metrics

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The dashboard and the alert rules are checked against a list of metrics. The list has what there
// is, and all series of labels whose values are known are there from the start.
func TestMetricsAreThoseOfTheList(t *testing.T) {
	CacheOf("cache.example.org")
	BuilderUp("ssh://builder.example.org", true)
	Info("v1", "2.34", "git", false)
	text, err := os.ReadFile("../../deploy/test/metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]struct {
		Type   string
		Labels map[string][]string
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, family := range families {
		name := family.GetName()
		if !strings.HasPrefix(name, namespace+"_") {
			continue
		}
		found[name] = true
		listed, ok := list[name]
		if !ok {
			t.Errorf("%s is not in the list", name)
			continue
		}
		if got := strings.ToLower(family.GetType().String()); got != listed.Type {
			t.Errorf("%s is a %s, the list says %s", name, got, listed.Type)
		}
		values := make(map[string][]string)
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				values[label.GetName()] = append(values[label.GetName()], label.GetValue())
			}
		}
		if len(values) != len(listed.Labels) {
			t.Errorf("%s has the labels %v, the list says %v", name, values, listed.Labels)
		}
		for label, want := range listed.Labels {
			got := slices.Compact(slices.Sorted(slices.Values(values[label])))
			if want != nil && name != namespace+"_info" && !slices.Equal(got, slices.Sorted(slices.Values(want))) {
				t.Errorf("%s{%s}: %q, the list says %q", name, label, got, want)
			}
		}
	}
	for name := range list {
		if strings.HasPrefix(name, namespace+"_") && !found[name] {
			t.Errorf("there is no %s", name)
		}
	}
}
