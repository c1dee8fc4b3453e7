#!/bin/sh
# Prints where llvm-profdata is, of the version that the compiler understands: one of its own components, which is added if
# there is none, or a package of the distribution.
set -eu
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
find_it() {
    for tool in "$(rustc --print sysroot)/lib/rustlib/$(rustc --print host-tuple)/bin/llvm-profdata" \
        "llvm-profdata-$major" "/usr/lib/llvm-$major/bin/llvm-profdata"; do
        command -v "$tool" && return
    done
    return 1
}
find_it || { rustup component add llvm-tools >&2 && find_it; } || {
    echo "no llvm-profdata of LLVM $major: \`rustup component add llvm-tools\`, or your distribution's package llvm-$major" >&2
    exit 1
}
