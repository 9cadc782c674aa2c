package source

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// askpass is the program that git asks for users and passwords. It takes them from its environment,
// since everybody can read the arguments of programs. It answers for the URL's own host alone,
// which is part of git's question, and so not for a host that this one redirects to.
const askpass = `#!/bin/sh
case "$1" in
"Username for '$REGISTRY_GIT_HOST': ") printf '%s\n' "$REGISTRY_GIT_USER" ;;
"Password for '$REGISTRY_GIT_LOGIN': ") printf '%s\n' "$REGISTRY_GIT_PASSWORD" ;;
*) exit 1 ;;
esac
`

// hidePassword takes user and password out of a git URL that has both. It returns the variables
// that give them to git, and writes askpass into dir.
func hidePassword(text, dir string) (without string, env []string, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return text, nil, nil //nolint:nilerr // user@host:path
	}
	password, ok := u.User.Password()
	if !ok {
		return text, nil, nil
	}
	program := filepath.Join(dir, "askpass")
	if written, err := os.ReadFile(program); err != nil || string(written) != askpass {
		if err := errors.Join(os.WriteFile(program, []byte(askpass), 0o700), os.Chmod(program, 0o700)); err != nil {
			return "", nil, fmt.Errorf("writing what git asks for passwords: %w", err)
		}
	}
	user := u.User.Username()
	u.User = nil
	host := u.Scheme + "://" + u.Host
	return u.String(), []string{
		"GIT_ASKPASS=" + program,
		"REGISTRY_GIT_HOST=" + host,
		"REGISTRY_GIT_LOGIN=" + u.Scheme + "://" + strings.ReplaceAll(url.QueryEscape(user), "+", "%20") + "@" + u.Host,
		"REGISTRY_GIT_USER=" + user,
		"REGISTRY_GIT_PASSWORD=" + password,
	}, nil
}
