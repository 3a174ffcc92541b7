#!/usr/bin/env bash
# Runs the Autobahn cases (PyPI: kosoku) against the codec of a player's session, directly and through the broker's
# tunnel. Cases 12 and 13 are about compression, which the service does not offer.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
kosoku=$target/python/bin/kosoku
[[ -x $kosoku ]] || tests/python.sh
reports=$(mktemp -d)
processes=()
# shellcheck disable=SC2317 # the trap calls it
stop() {
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    rm -rf "$reports"
}
trap stop EXIT

cargo build --release --locked --workspace --all-targets

# Starts a program in the background and puts the address that it prints first into the variable `address`.
start() {
    local output
    output=$(mktemp -p "$reports")
    "$@" >"$output" </dev/null &
    processes+=($!)
    for _ in $(seq 600); do
        address=$(head -n 1 "$output")
        if [[ -n $address ]]; then return; fi
        kill -0 "${processes[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "$1 did not start" >&2
    exit 1
}

outcome=0
# $1: what is tested. $2: its address.
suite() {
    echo "conformance: $1"
    "$kosoku" -m fuzzingclient -x '12.*' -x '13.*' -o "$reports/$1" "$2" >"$reports/$1.log" 2>&1 ||
        tail -n 40 "$reports/$1.log"
    python3 tests/conformance/verdict.py "$reports/$1" || outcome=1
}

start "$target/release/examples/echo" 127.0.0.1:0
node=$address
suite direct "$node"
start "$target/release/examples/tunnel" "$node"
suite tunnel "$address"
exit "$outcome"
