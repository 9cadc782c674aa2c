package integration

import (
	"cmp"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// conformanceModule is the program with which registries show that they keep to the
// distribution-spec. It has no releases.
const conformanceModule = "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"

// conformanceOff are features that the stock registry lacks. The program does not understand how it
// says so.
var conformanceOff = []string{
	"OCI_DATA_SHA512", "OCI_DATA_SUBJECT", "OCI_DATA_SUBJECT_LIST", "OCI_DATA_SUBJECT_MISSING",
	"OCI_DATA_NONDISTRIBUTABLE", "OCI_API_REFERRER",
}

// A registry that builds images conforms as the stock one does, also in repositories that are named
// like packages.
func TestConformance(t *testing.T) {
	program := installConformance(t)
	stock := conformance(t, program, StartRegistry(t, "middleware={}"), "conformance/repo1", "conformance/repo2")
	if passed := stock.Tests - stock.Failures - stock.Errors - stock.Skipped - stock.Disabled; passed != 511 ||
		stock.Skipped != 3 ||
		stock.Failures != 0 ||
		stock.Errors != 0 {
		t.Errorf(
			"of the stock registry's %d tests %d pass and %d are skipped, want 511 and 3", stock.Tests,
			passed, stock.Skipped,
		)
	}
	for _, test := range []struct{ name, repo1, repo2 string }{
		{"plain", "conformance/repo1", "conformance/repo2"},
		{"packages", "hello", "shell/tree"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := conformance(t, program, StartRegistry(t), test.repo1, test.repo2)
			for i, result := range got.Results {
				if i >= len(stock.Results) || result.Name != stock.Results[i].Name ||
					result.Status != stock.Results[i].Status {
					t.Fatalf("%s: %s, unlike the stock registry\n%s", result.Name, result.Status, result.Log)
				}
			}
			if got.Tests != stock.Tests {
				t.Errorf("%d tests, the stock registry has %d", got.Tests, stock.Tests)
			}
		})
	}
}

// A conformanceReport is what the program found, ordered by name. Groups of tests count as tests
// too, but have no result of their own.
type conformanceReport struct {
	Tests    int                 `xml:"tests,attr"`
	Failures int                 `xml:"failures,attr"`
	Errors   int                 `xml:"errors,attr"`
	Skipped  int                 `xml:"skipped,attr"`
	Disabled int                 `xml:"disabled,attr"`
	Results  []conformanceResult `xml:"testcase"`
}

type conformanceResult struct {
	Name   string `xml:"name,attr"`
	Status string `xml:"status,attr"`
	Log    string `xml:"system-err"`
}

// conformance runs the program against a registry.
func conformance(t *testing.T, program string, r *Registry, repo1, repo2 string) conformanceReport {
	t.Helper()
	results := t.TempDir()
	command := exec.CommandContext(t.Context(), program)
	command.Dir = results
	command.Env = append(
		os.Environ(), "OCI_REGISTRY="+r.Addr, "OCI_TLS=disabled", "OCI_REPO1="+repo1, "OCI_REPO2="+repo2,
		"OCI_RESULTS_DIR="+results,
	)
	for _, variable := range conformanceOff {
		command.Env = append(command.Env, variable+"=false")
	}
	out, runErr := command.CombinedOutput() // a failed test is an error too
	report, err := os.ReadFile(filepath.Join(results, "junit.xml"))
	if err != nil {
		t.Fatalf("the conformance program left no report: %v, %v\n%s", runErr, err, out)
	}
	var suites struct {
		Suite conformanceReport `xml:"testsuite"`
	}
	if err := xml.Unmarshal(report, &suites); err != nil {
		t.Fatal(err)
	}
	// The order of the tests is by chance.
	slices.SortFunc(suites.Suite.Results, func(a, b conformanceResult) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Status, b.Status))
	})
	return suites.Suite
}

// installConformance builds the program where it stays for the next time.
func installConformance(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(shared.root, "build", "tools")
	install := exec.CommandContext(t.Context(), "go", "install", conformanceModule)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		needs.Missing(t, "installing %s: %v\n%s", conformanceModule, err, out)
	}
	return filepath.Join(dir, "conformance")
}
