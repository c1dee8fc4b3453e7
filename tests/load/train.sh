#!/bin/sh
# Runs the instrumented master $1 with the plugins in $2 under the load of generator $3, and puts what it did how often into
# $4/muster.profdata, for the compiler. Called by `make dist`. A master that is the same as last time is not run again.
set -eu
muster=$1 plugins=$2 load=$3 out=$4
here=$(cd "$(dirname "$0")" && pwd)
cells=s4:50x1,s4:50x16,s4:1x1,s5:50x16x50,s5:1x1x1,s3:50x4096,s6:1000,s7:1000,s1:1000

mkdir -p "$out"
sum=$(cat "$muster" "$0" | sha256sum)
[ -f "$out/muster.profdata" ] && [ "$(cat "$out/trained" 2>/dev/null)" = "$sum" ] && exit 0

# With one processor for the master, as `make bench` measures, and with all.
ulimit -n "$(ulimit -Hn)"
rm -f "$out"/*.profraw
for on in "taskset -c 0" ""; do
    : > "$out/listening"
    LLVM_PROFILE_FILE=$out/%p-%m.profraw $on "$muster" master --listen 127.0.0.1:0 --config-dir "$here/node/config" \
        --plugins "$plugins" --set log.level=error --set modules.timeReport.interval=1 > "$out/listening" &
    master=$!
    trap 'kill $master 2>/dev/null || :' EXIT
    until grep -q listening "$out/listening"; do
        kill -0 $master
        sleep 0.1
    done
    address=$(sed -n 's/.*listening on //p' "$out/listening")
    "$load" compare --target "training=@$address,$master" --cells "$cells" --reps 1 --modes pinned --warm 0.5 --dur 2 \
        --rounds 10 --max-others 1000 > "$out/load.txt"
    kill -TERM $master
    wait $master
done
"$("$here/profdata.sh")" merge -o "$out/muster.profdata" "$out"/*.profraw
printf '%s\n' "$sum" > "$out/trained"
