# The registry with a Nix of its own, as an unprivileged user. docs/install/container.md says how to run it.
#
#   docker build --tag nixery-registry .
#   docker run --rm --publish 5000:5000 --env NIXERY_CHANNEL=nixos-26.05 nixery-registry
#
# BASE is Debian 13 or later, whose Nix is new enough for nixpkgs; nothing is installed, and no network used, where it has all programs already. GO has a Go
# that is as new as go.mod asks for.
ARG BASE=debian:trixie-slim
ARG GO=golang:1.26-trixie

FROM ${GO} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /registry ./cmd/registry

FROM ${BASE}

# Git and ssh are for package sets in git repositories, tini reaps what builders leave behind.
RUN for program in nix-daemon git ssh curl tini; do command -v "$program" || missing=yes; done; \
    test -z "$missing" && test -e /etc/ssl/certs/ca-certificates.crt || { \
      apt-get update && \
      DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates curl git nix-bin openssh-client tini && \
      rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin; \
    }

# Nix without build users: a container is not allowed what its sandbox needs. Where anything is built, a second container should do that, as the user nix, with
# nix-daemon: deploy/compose.yaml and deploy/kubernetes.yaml have it. In this one, builds would be the registry's user.
RUN groupadd --gid 1000 registry && \
    useradd --uid 1000 --gid registry --create-home --shell /usr/sbin/nologin registry && \
    groupadd --gid 1001 nix && \
    useradd --uid 1001 --gid nix --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin nix && \
    install --directory --owner=registry --group=registry \
      /nix /nix/store /nix/var /nix/var/nix /var/lib/registry /var/cache/nixery-registry && \
    mkdir -p /etc/nix && \
    printf 'build-users-group =\nsandbox = false\n' >/etc/nix/nix.conf

COPY --from=build /registry /usr/local/bin/registry

# Where configurations of the stock registry's images look for the program and its entry point, and what those serve when they are told nothing.
RUN ln -s /usr/local/bin/registry /usr/bin/registry && ln -s /usr/local/bin/registry /entrypoint.sh
COPY deploy/stock.yml /usr/share/nixery-registry/config.yml

# A number, so that Kubernetes sees that it is not root.
USER 1000:1000

ENV HOME=/home/registry \
    CACHE_DIRECTORY=/var/cache/nixery-registry \
    STORAGE_PATH=/var/lib/registry \
    PORT=5000 \
    NIXERY_BUILD_LOCAL=false
EXPOSE 5000

# A registry that asks who is there is healthy. HEALTH_URL is for one with TLS, a prefix or a port from a configuration file.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
  CMD case "$(curl --silent --insecure --output /dev/null --write-out '%{http_code}' "${HEALTH_URL:-http://127.0.0.1:$PORT/v2/}")" in \
        200 | 401) ;; \
        *) exit 1 ;; \
      esac

ENTRYPOINT ["tini", "--", "registry"]
CMD ["serve"]
