#!/usr/bin/env bash
# Pulls IMAGE from REGISTRY_URL, and compares the config and all layers with their digests. `helm test` runs it in the
# registry's own image. USERNAME and PASSWORD are of the registry, where it asks for a login.
#
# Usage: REGISTRY_URL=http://localhost:5000 IMAGE=shell/git:latest bash pull.sh
# Needs: curl.
set -euo pipefail

name=${IMAGE%:*}
tag=${IMAGE##*:}
[ "$name" != "$IMAGE" ] || tag=latest

login=/dev/null
if [ -n "${USERNAME:-}" ]; then
  login=$(mktemp)
  password=${PASSWORD?of $USERNAME: missing}
  password=${password//\\/\\\\}
  printf 'user = "%s:%s"\n' "$USERNAME" "${password//\"/\\\"}" >"$login"
fi
# get PATH: a client that waits is sent round again. Its certificate is for the name that clients use.
get() {
  curl --config "$login" --silent --show-error --fail-with-body --insecure --location --max-redirs 100 \
    --header 'Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json' \
    --header 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$REGISTRY_URL/v2/$name/$1"
}

manifest=$(get "manifests/$tag") || { echo "$IMAGE: $manifest" >&2; exit 1; }
case $manifest in
*'"manifests"'*) # an index: of its images, the first
  digest=$(grep -o '"manifests".*' <<<"$(tr -d ' \n' <<<"$manifest")" | grep -o 'sha256:[0-9a-f]\{64\}' | head -n 1)
  manifest=$(get "manifests/$digest")
  ;;
esac
blobs=$(tr -d ' \n' <<<"$manifest" | sed 's/"annotations":{[^}]*}//g' | grep -o '"digest":"sha256:[0-9a-f]\{64\}"' |
  grep -o '[0-9a-f]\{64\}' | sort -u || true)
[ -n "$blobs" ] || { echo "$IMAGE has no blobs: $manifest" >&2; exit 1; }
for digest in $blobs; do
  sum=$(get "blobs/sha256:$digest" | sha256sum)
  [ "${sum%% *}" = "$digest" ] || { echo "$IMAGE: the blob sha256:$digest is another: ${sum%% *}" >&2; exit 1; }
done
echo "$IMAGE: pulled, $(wc -w <<<"$blobs") blobs"
