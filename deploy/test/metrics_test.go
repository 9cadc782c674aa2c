package deploytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// A metric is one of metrics.json. A label without values has any.
type metric struct {
	Type   string
	Labels map[string][]string
}

// readMetrics reads what the registry counts.
func readMetrics(t *testing.T) map[string]metric {
	t.Helper()
	text, err := os.ReadFile("metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var metrics map[string]metric
	if err := json.Unmarshal(text, &metrics); err != nil {
		t.Fatal(err)
	}
	return metrics
}

// ofTarget are labels that Prometheus adds.
var ofTarget = []string{"namespace", "job", "instance"}

// faults are what an expression asks for that metrics do not have. Those that it names are put into
// used.
func faults(metrics map[string]metric, expression string, used map[string]bool) (found []error) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		return []error{err}
	}
	var selected []metric
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		name, one, ok := find(metrics, selector.Name)
		if !ok {
			found = append(found, fmt.Errorf("there is no metric %s", selector.Name))
			return nil
		}
		used[name] = true
		selected = append(selected, one)
		for _, matcher := range selector.LabelMatchers {
			found = append(found, one.matches(selector.Name, matcher)...)
		}
		return nil
	})
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		aggregation, ok := node.(*parser.AggregateExpr)
		if !ok {
			return nil
		}
		for _, label := range aggregation.Grouping {
			has := func(one metric) bool { return one.has(label) }
			if !slices.ContainsFunc(selected, has) {
				found = append(found, fmt.Errorf("%s: no metric has the label %s", aggregation, label))
			}
		}
		return nil
	})
	return found
}

// find is a metric by the name of one of its series.
func find(metrics map[string]metric, series string) (string, metric, bool) {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		name, isPart := strings.CutSuffix(series, suffix)
		if one, ok := metrics[name]; isPart && ok && one.Type == "histogram" {
			return name, one, true
		}
	}
	one, ok := metrics[series]
	return series, one, ok && one.Type != "histogram"
}

func (m metric) has(label string) bool {
	_, ok := m.Labels[label]
	return ok || slices.Contains(ofTarget, label) || label == "le" && m.Type == "histogram"
}

// matches tells what a matcher can't match.
func (m metric) matches(name string, matcher *labels.Matcher) (found []error) {
	if matcher.Name == model.MetricNameLabel || slices.Contains(ofTarget, matcher.Name) {
		return nil
	}
	if !m.has(matcher.Name) {
		return []error{fmt.Errorf("%s has no label %s", name, matcher.Name)}
	}
	values := m.Labels[matcher.Name]
	if values == nil {
		return nil
	}
	for _, value := range strings.Split(matcher.Value, "|") {
		if !slices.Contains(values, value) {
			found = append(found, fmt.Errorf("%s: %s is never %s", name, matcher.Name, value))
		}
	}
	return found
}

// TestFaults has expressions that no metric fits.
func TestFaults(t *testing.T) {
	metrics := readMetrics(t)
	for _, expression := range []string{
		"registry_nix_pull_total",
		`registry_nix_pulls_total{results="built"}`,
		`registry_nix_pulls_total{result=~"built|broken"}`,
		"registry_nix_wait_seconds",
		"registry_nix_evaluates_bucket",
		"sum by (reason) (registry_nix_pulls_total)",
		"sum by (le) (registry_nix_pulls_total)",
		"rate(registry_nix_pulls_total)",
	} {
		if len(faults(metrics, expression, map[string]bool{})) != 1 {
			t.Errorf("%s has no fault", expression)
		}
	}
}

// A panel is one of a dashboard, as far as it is looked at.
type panel struct {
	Title, Type string
	Targets     []struct{ Expr string }
}

// TestDashboard parses each expression of the dashboard. Each metric of the registry's own is in
// one.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	metrics := readMetrics(t)
	used := make(map[string]bool)
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "6h")
	for _, one := range dashboard.Panels {
		if one.Type != "row" && len(one.Targets) == 0 {
			t.Errorf("%s shows nothing", one.Title)
		}
		for _, target := range one.Targets {
			for _, fault := range faults(metrics, variables.Replace(target.Expr), used) {
				t.Errorf("%s: %v: %s", one.Title, fault, target.Expr)
			}
			if !strings.Contains(target.Expr, `{namespace=~"$namespace", job=~"$job"`) {
				t.Errorf("%s is of all registries: %s", one.Title, target.Expr)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		if !used[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// TestRules reads the alert rules as Prometheus does. What they name is there, and each says what it
// is about and where there is more.
func TestRules(t *testing.T) {
	groups, all := rulefmt.ParseFile(
		"../prometheus/rules.yaml", false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default(),
	)
	if len(all) > 0 {
		t.Fatal(all)
	}
	metrics := readMetrics(t)
	tests, err := os.ReadFile("rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const pages = "https://github.com/nixery-registry/nixery-registry/blob/main/docs/operate/troubleshooting.md#"
	for _, rule := range groups.Groups[0].Rules {
		for _, fault := range faults(metrics, rule.Expr, map[string]bool{}) {
			t.Errorf("%s: %v", rule.Alert, fault)
		}
		if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" || rule.Labels["severity"] == "" {
			t.Errorf("%s has no summary, description or severity", rule.Alert)
		}
		if want := pages + strings.ToLower(rule.Alert); rule.Annotations["runbook_url"] != want {
			t.Errorf("%s leads to %s, want %s", rule.Alert, rule.Annotations["runbook_url"], want)
		}
		if !bytes.Contains(tests, []byte("alertname: "+rule.Alert+"\n        exp_alerts:")) {
			t.Errorf("rules_test.yaml does not say when %s fires", rule.Alert)
		}
	}
}

// TestPromtool has promtool find out when alerts fire. It is built without the ways of finding
// targets, which rules do not need.
func TestPromtool(t *testing.T) {
	for _, arguments := range []string{"check rules --lint-fatal ../prometheus/rules.yaml", "test rules rules_test.yaml"} {
		command := exec.CommandContext(t.Context(), "go", append(
			[]string{"run", "-tags", "remove_all_sd", "github.com/prometheus/prometheus/cmd/promtool"},
			strings.Fields(arguments)...,
		)...)
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", arguments, err, out)
		}
	}
}
