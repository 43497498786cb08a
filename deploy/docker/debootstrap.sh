#!/usr/bin/env bash
# A Debian as the image BASE of these Dockerfiles, where no registry is asked: by debootstrap and buildah, as root.
#   deploy/docker/debootstrap.sh NAME
# RELEASE (bookworm) and MIRROR say which Debian; FOLDER is one that debootstrap has made before, with python3 in it. Authorities in
# AUTHORITIES (/usr/local/share/ca-certificates) are trusted in the image as they are here, by pip, too.
set -euo pipefail
name=${1:?"name the image, as: debootstrap.sh debian-here"}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=${FOLDER:-$work/debian}
[ -n "${FOLDER:-}" ] || debootstrap --variant=minbase --include=ca-certificates,python3-venv "${RELEASE:-bookworm}" "$folder" \
  "${MIRROR:-http://deb.debian.org/debian}"

container=$(buildah from scratch)
buildah copy -q "$container" "$folder" /
trusted=${AUTHORITIES:-/usr/local/share/ca-certificates}
if compgen -G "$trusted/*.crt" > /dev/null; then
  buildah copy -q "$container" "$trusted"/*.crt /usr/local/share/ca-certificates/
  buildah run --isolation chroot "$container" -- /usr/sbin/update-ca-certificates
  buildah config --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$container"
fi
buildah config --cmd /bin/bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit -q --rm --format docker "$container" "$name"
