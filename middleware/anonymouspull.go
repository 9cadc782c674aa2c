package middleware

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/auth"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// anonymousPullName is what the access controller is called in config.yml.
const anonymousPullName = "anonymouspull"

// Values of the access controller's option build: for whom images are built.
const (
	buildAny  = "any"
	buildUser = "user" // clients that have logged in
	buildNone = "none"
)

// controllerKey is the key under which the access controller leaves itself in the options that the
// registry hands to it. No key of YAML can be the same.
const controllerKey = "\x00controller"

// errNoBuilds: the image would have to be built, and nothing is built for pulls.
var errNoBuilds = status.Errorf(
	status.NotFound, "it is not stored, and this registry builds nothing because somebody pulls it",
)

// needsLogin means that the image would have to be built, and the client has not logged in.
type needsLogin struct {
	challenge func() // sets the headers that tell how
}

func (needsLogin) Error() string {
	return "the image is not there yet, and has to be built, which this registry does for users alone: log in"
}

// An anonymousPull is an access controller that lets everybody pull. All else, and requests with
// credentials, it leaves to another one.
type anonymousPull struct {
	auth.AccessController
	build  string
	tokens *tokens // nil: clients send passwords, or tokens of somebody else's
}

// newAnonymousPull is what the registry calls, with the options of the section auth.
func newAnonymousPull(options map[string]any) (auth.AccessController, error) {
	parsed, err := parseAnonymousPull(options)
	if err != nil {
		return nil, err
	}
	inner, err := auth.GetAccessController(parsed.inner, parsed.options)
	if err != nil {
		return nil, fmt.Errorf("auth.%s.%s: %w", anonymousPullName, parsed.inner, err)
	}
	controller := &anonymousPull{AccessController: inner, build: parsed.build}
	options[controllerKey] = controller
	return controller, nil
}

// anonymousPullOptions say for whom images are built, and name the access controller for users.
type anonymousPullOptions struct {
	build, inner string
	options      map[string]any
}

// parseAnonymousPull joins all that is wrong with options. Each fault begins with its key.
func parseAnonymousPull(options map[string]any) (parsed anonymousPullOptions, err error) {
	const section = "auth." + anonymousPullName
	parsed.build = buildUser
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(section+format, args...)) }
	for _, key := range slices.Sorted(maps.Keys(options)) {
		value := options[key]
		switch key {
		case controllerKey:
		case "build":
			text, ok := value.(string)
			if parsed.build = text; !ok || !slices.Contains([]string{buildAny, buildUser, buildNone}, text) {
				fault(".build: %v is not one of %s, %s and %s", value, buildAny, buildUser, buildNone)
			}
		default:
			controller, keyFaults := namedKeys(section+"."+key, value)
			named, ok := controller.(map[string]any)
			faults = append(faults, keyFaults...)
			switch {
			case key == anonymousPullName || !ok && value != nil:
				fault(".%s: is not another access controller with its options, "+
					"such as htpasswd: {realm: …, path: …}", key)
			case parsed.inner != "":
				fault(".%s: is a second access controller beside %s: keep one of the two", key, parsed.inner)
			}
			parsed.inner, parsed.options = key, named
		}
	}
	if parsed.inner == "" {
		fault(": names no access controller for users: give one, such as htpasswd: {realm: …, path: …}")
	}
	return parsed, errors.Join(faults...)
}

// anonymousPullFaults tells what is wrong with the section auth, if it names this access
// controller.
func anonymousPullFaults(config *configuration.Configuration) []error {
	if config.Auth.Type() != anonymousPullName {
		return nil
	}
	_, err := parseAnonymousPull(config.Auth.Parameters())
	return prefixed("", err)
}

// Authorized implements auth.AccessController. Wrong credentials are refused also for pulls, so
// that nobody finds out late. The base of the API, /v2/, asks for no access: without the challenge
// there, clients never send the credentials that they have.
func (a *anonymousPull) Authorized(request *http.Request, access ...auth.Access) (*auth.Grant, error) {
	if a.tokens != nil {
		request = a.tokens.opened(request)
	}
	if isAnonymous(request) && isPull(access) {
		return &auth.Grant{}, nil
	}
	grant, err := a.AccessController.Authorized(request, access...)
	if challenge := auth.Challenge(nil); a.tokens != nil && errors.As(err, &challenge) {
		return nil, tokenChallenge{challenge, a.tokens, access}
	}
	return grant, err
}

// isAnonymous tells whether a request has no credentials. Some clients that have none send an empty
// user with an empty password.
func isAnonymous(request *http.Request) bool {
	if user, password, ok := request.BasicAuth(); ok {
		return user == "" && password == ""
	}
	return request.Header.Get("Authorization") == ""
}

func isPull(access []auth.Access) bool {
	for _, one := range access {
		if one.Type != "repository" || one.Action != "pull" {
			return false
		}
	}
	return len(access) > 0
}

// barred tells why nothing is built for a user, nil if images are. The user is empty if nobody has
// logged in.
func (s *Service) barred(user string, request *http.Request, response http.ResponseWriter, repository string) error {
	controller, ok := s.config.Auth.Parameters()[controllerKey].(*anonymousPull)
	switch {
	case !ok:
		return nil
	case controller.build == buildNone:
		return errNoBuilds
	case controller.build == buildUser && user == "":
		return needsLogin{func() { controller.challenge(request, response, repository) }}
	}
	return nil
}

// challenge tells a client that has pulled without a login how to log in.
func (a *anonymousPull) challenge(request *http.Request, response http.ResponseWriter, repository string) {
	request = request.Clone(request.Context())
	request.Header.Del("Authorization")
	pull := auth.Access{Resource: auth.Resource{Type: "repository", Name: repository}, Action: "pull"}
	_, err := a.AccessController.Authorized(request, pull)
	challenge := auth.Challenge(nil)
	if !errors.As(err, &challenge) {
		return
	}
	if a.tokens != nil {
		challenge = tokenChallenge{challenge, a.tokens, []auth.Access{pull}}
	}
	challenge.SetHeaders(request, response)
}
