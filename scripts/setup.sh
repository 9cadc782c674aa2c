#!/usr/bin/env bash
# Installs what is missing on a Debian machine to run the registry (`run`), to test it (`test`) or to measure it (`bench`). Says what it does before
# it does it, and does nothing where everything is there. A Nix that is already installed is used as it is, unless PACKAGES is a channel, or a directory with
# nixpkgs, and it is too old for that: then Debian 13's is put into build/nix.
#
# Usage: scripts/setup.sh run|test|bench [PACKAGES]
# Needs: Debian 12 or later, root (or sudo) if anything is missing.
set -euo pipefail

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

missing=()
# need COMMAND PACKAGE: the package is installed unless the command is there.
need() {
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

need nix-instantiate nix-bin
need nix-daemon nix-bin
need patchelf patchelf
need busybox busybox-static
need xz xz-utils
need zstd zstd
need curl curl
case "${1:-}" in
  run) ;;
  test)
    need skopeo skopeo
    need podman podman
    need runc runc
    need dockerd docker.io
    need docker docker.io
    need docker-compose docker-compose
    need shellcheck shellcheck
    need iptables iptables
    need jq jq
    need git git
    need ps procps
    need ssh openssh-client
    PATH=$PATH:/usr/sbin need sshd openssh-server
    need debootstrap debootstrap
    need systemd-analyze systemd
    need redis-server redis-server
    need qemu-aarch64-static qemu-user-static
    need pigz pigz
    need wrk wrk
    need bash-static bash-static
    ;;
  bench)
    need git git
    need pigz pigz
    need wrk wrk
    ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

# Programs are wanted, not the services that some packages start: no port is to be open after this. Where services are kept from
# starting already, that is left as it is.
policy=/usr/sbin/policy-rc.d
forbid_services() {
  [ ! -e "$policy" ] || return 0
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
  trap 'as_root rm -f "$policy"' EXIT
}
# disable_service PACKAGE UNIT…: unless the package was there before, its units do not start with the machine either.
disable_service() {
  [[ " ${missing[*]} " == *" $1 "* ]] || return 0
  shift
  as_root systemctl --quiet disable "$@" 2>/dev/null || true # without systemd, there is nothing to disable
}

if [ "${#missing[@]}" -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  echo "Installing Debian packages: ${missing[*]}"
  as_root apt-get update -qq || true # another source on the machine may be out of reach
  forbid_services
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  disable_service openssh-server ssh.service
  disable_service redis-server redis-server.service
  disable_service docker.io docker.service docker.socket containerd.service
fi

# As root, Nix builds as the users of the group nixbld, one for each build at a time. Debian's package does not make them.
if [ "$(id -u)" -eq 0 ] && [ ! -S /nix/var/nix/daemon-socket/socket ]; then
  getent group nixbld >/dev/null || groupadd --system nixbld
  for n in 1 2 3 4 5 6 7 8; do
    getent passwd "nixbld$n" >/dev/null || useradd --system --no-create-home --home-dir /var/empty --shell /usr/sbin/nologin \
      --comment "Nix build user $n" --gid nixbld --groups nixbld "nixbld$n"
  done
fi

# nixpkgs wants Nix 2.18.
if [[ "${2:-}" = channel:* ]] || [ -e "${2:-/nonexistent}/lib/minfeatures.nix" ]; then
  version=$(nix --version)
  oldest=$(printf '%s\n' 2.18 "${version##* }" | sort --version-sort | head -n 1)
  if [ "$oldest" != 2.18 ]; then
    [ -e /usr/bin/bash-static ] || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bash-static >/dev/null
    "$(dirname "$0")/get-nix.sh" trixie "$(dirname "$0")/../build/nix"
  fi
fi
