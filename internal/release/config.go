package main

import (
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// createdBy says in the history how each layer was made.
var createdBy = []string{"Debian packages of deploy/debian.lock", "the registry"}

// config is an image's configuration, with the health check that Docker adds to OCI's.
type config struct {
	imagespec.Image
	Config containerConfig `json:"config"`
}

type containerConfig struct {
	imagespec.ImageConfig
	Healthcheck healthcheck
}

type healthcheck struct {
	Test                           []string
	Interval, Timeout, StartPeriod time.Duration
}

// imageConfig is the Dockerfile's configuration: TestReleaseImage compares them.
func imageConfig(architecture string, created time.Time, labels map[string]string) config {
	return config{
		Image: imagespec.Image{
			Created:  &created,
			Platform: imagespec.Platform{Architecture: architecture, OS: "linux"},
		},
		Config: containerConfig{
			ImageConfig: imagespec.ImageConfig{
				User:         "1000:1000",
				ExposedPorts: map[string]struct{}{"5000/tcp": {}},
				Env: []string{
					"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
					"HOME=/home/registry",
					"CACHE_DIRECTORY=/var/cache/nixery-registry",
					"STORAGE_PATH=/var/lib/registry",
					"PORT=5000",
					"NIXERY_BUILD_LOCAL=false",
				},
				Entrypoint: []string{"tini", "--", "registry"},
				Cmd:        []string{"serve"},
				Labels:     labels,
			},
			Healthcheck: healthcheck{
				Test: []string{
					"CMD-SHELL",
					`case "$(curl --silent --insecure --output /dev/null --write-out '%{http_code}' ` +
						`"${HEALTH_URL:-http://127.0.0.1:$PORT/v2/}")" in         200 | 401) ;;         *) exit 1 ;;       esac`,
				},
				Interval: 30 * time.Second, Timeout: 10 * time.Second, StartPeriod: 30 * time.Second,
			},
		},
	}
}
