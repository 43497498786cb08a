#!/bin/sh
# plain_protos.sh INTO: copies the proto files without what compilers before protoc 22 do not know, as Debian 12 has one.
# `debug_redact` keeps credentials out of what newer C++ prints of a message; it changes nothing on the wire.
set -eu
protos=$(cd "$(dirname "$0")/../protos" && pwd)
mkdir -p "$1"
into=$(cd "$1" && pwd)
cd "$protos"
find inferd_api/v1 google -name '*.proto' | while read -r file; do
  mkdir -p "$into/$(dirname "$file")"
  sed 's/ \[debug_redact = true\]//' "$file" > "$into/$file.new"
  # One that has not changed stays as it is, so that nothing is made anew of it.
  if cmp -s "$into/$file.new" "$into/$file"; then rm "$into/$file.new"; else mv "$into/$file.new" "$into/$file"; fi
done
