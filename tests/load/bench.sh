#!/bin/sh
# Measures the master $1 with the plugins in $2 (directory) and the generator $3, beside the original's master where Node is
# there, and puts the table into host/benches/RESULTS.md. Called by `make bench`:
#
#   make bench                                   everything: a quarter to half an hour, after `make dist`
#   make bench CELLS=s4:50x16,s1:5000 REPS=1     a quick look; RESULTS= leaves the file alone
#   make bench LIMIT=--limit                     also the null master: what no master can pass
#   make bench BENCHED=release                   the master of `make build` instead of the one of `make dist`
#
# It needs two processors, the master on the first and the generator on the second, and quiet: what others use is in the
# table, and a measurement that they disturbed is made again.
set -eu
muster=$1 plugins=$2 load=$3
here=$(cd "$(dirname "$0")" && pwd)
ulimit -n "$(ulimit -Hn)"

: "${CELLS:=s4:50x16,s4:50x1,s4:1x1,s5:1x1x1,s5:50x16x50,s3:50x16384,s6:1000,s6:5000,s7:1000,s1:1000,s1:5000,s1:10000,s8:2000,s9:100000,s9u:100000}"
: "${REPS:=3}" "${LIMIT=}" "${MODES:=pinned}" "${RESULTS=$here/../../host/benches/RESULTS.md}"

ours="muster=$muster master --listen 127.0.0.1:{port} --config-dir $here/node/config --plugins $plugins \
--set log.level=error --set modules.timeReport.interval={pull}"
set -- --target "$ours"
if command -v node >/dev/null && command -v npm >/dev/null; then
    "$here/../node/install.sh"
    set -- --target "node=node $here/node/index.js --port {port} --pull {pull}" "$@"
else
    echo "no node here: the original's master is left out" >&2
fi
# Whatever else runs is to disturb little; the masters and the generator alike go before it.
first=
[ "$(id -u)" = 0 ] && first="nice -n -20"
exec $first "$load" compare "$@" $LIMIT --cells "$CELLS" --reps "$REPS" --modes "$MODES" --warm 1.5 --dur 3 --rounds 30 \
    --s8-secs 30 --retries 2 --quiet-wait 20 ${RESULTS:+--into "$RESULTS"}
