#!/bin/sh
# Installs the original Node programs, which the tests talk to, outside the source tree: into $MUSTER_PEERS,
# else a directory of the user's cache. Does nothing if they are there already. Needs node 20 and npm.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
peers=${MUSTER_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/muster-peers}
mkdir -p "$peers"

stamp=$peers/.installed
wanted=$(cat "$here/package.json" "$here/package-lock.json" | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

cp "$here/package.json" "$here/package-lock.json" "$peers/"
cd "$peers"
# --ignore-scripts: nothing of what we use needs a native build, and a fresh machine may have no compiler.
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
printf '%s\n' "$wanted" > "$stamp"
