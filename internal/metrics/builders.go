package metrics

import (
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var builderUp = promauto.NewGaugeVec(prometheus.GaugeOpts{
	Namespace: namespace, Name: "builder_up",
	Help: "Whether a remote builder took work when it was last asked. It counts as up until it is asked.",
}, []string{"host"})

// Builders declares the remote builders of nix.builders, in Nix's own form. Those of a file (@FILE)
// are known once Nix speaks of them.
func Builders(setting string) {
	for line := range strings.FieldsFuncSeq(setting, func(r rune) bool { return r == ';' || r == '\n' }) {
		fields := strings.Fields(line)
		if len(fields) > 0 && !strings.HasPrefix(fields[0], "@") && !strings.HasPrefix(fields[0], "#") {
			BuilderUp(fields[0], true)
		}
	}
}

// BuilderUp says whether the builder at a URL takes work.
func BuilderUp(builder string, up bool) {
	builderUp.WithLabelValues(builderHost(builder)).Set(map[bool]float64{true: 1}[up])
}

// builderHost is the host of a URL, without a user, or the name that ssh has for it.
func builderHost(builder string) string {
	if parsed, err := url.Parse(builder); err == nil && parsed.Hostname() != "" {
		return parsed.Hostname()
	}
	_, host, _ := strings.Cut("@"+builder, "@")
	if _, after, ok := strings.Cut(host, "@"); ok {
		host = after
	}
	return host
}
