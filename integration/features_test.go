package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// reconfigure stops a registry and changes its configuration, for the next start.
func reconfigure(t *testing.T, r *Registry, settings ...string) {
	t.Helper()
	r.Stop()
	content, err := os.ReadFile(r.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		set(config, key, value)
	}
	if content, err = json.MarshalIndent(config, "", "  "); err != nil {
		t.Fatal(err)
	}
	Write(t, r.ConfigFile(), string(content))
}

// startWith starts a stopped registry with other arguments and more environment than
// Registry.Start, and returns when it has logged that it listens. The first group of the pattern is
// its address.
func startWith(t *testing.T, r *Registry, listening *regexp.Regexp, environment []string, args ...string) {
	t.Helper()
	program, err := r.Program, error(nil)
	if program == "" {
		program, err = shared.binary()
	}
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(r.logFile(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	before := len(r.Log())
	command := exec.Command(program, args...)
	command.Dir = r.Dir
	command.Env = append(
		append(shared.environ(), "PATH="+filepath.Join(r.Dir, "bin")+":"+os.Getenv("PATH")), environment...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	r.cmd, r.ended = command, ended
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	Eventually(t, startTime, "the registry listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("the registry has ended: %v\n%s", command.ProcessState, r.Log()[before:])
		default:
		}
		address := listening.FindStringSubmatch(r.Log()[before:])
		if address != nil {
			r.Addr = address[1]
		}
		return address != nil
	})
}

// refused checks that a command fails with a text on stderr, and that the registry has neither
// evaluated nor built anything for it.
func refused(t *testing.T, r *Registry, text *regexp.Regexp, name string, args ...string) {
	t.Helper()
	before, programs := len(r.Log()), r.Programs()
	stdout, stderr, err := TryExec(t.Context(), name, args...)
	if err == nil || !text.MatchString(stderr) {
		t.Errorf("%s %s: %v, want an error with %q\n%s%s", name, strings.Join(args, " "), err, text, stdout, stderr)
	}
	if strings.Contains(r.Log()[before:], logBuilt) ||
		slices.Contains(r.Programs()[len(programs):], "nix-instantiate") {
		t.Errorf("%s %s made Nix work", name, strings.Join(args, " "))
	}
}

// destination is where skopeo may copy an image to.
func destination(t *testing.T) string { return "oci:" + filepath.Join(Dir(t), "image") }

// ask asks for the manifest of an image, with headers given as name and value, and returns the
// answer's status.
func ask(t *testing.T, r *Registry, name string, headers ...string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(
		t.Context(), http.MethodGet, "http://"+r.Addr+"/v2/"+name+"/manifests/latest", nil,
	)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}
