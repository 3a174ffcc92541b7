#!/usr/bin/env bash
# Tests the chart against the binary, the schemas of Kubernetes and promtool, and the scripts of minikube/ with stubs.
# Takes what `./test install` brings: target/python, target/charts, bats, promtool, redis-server.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export MLMS_BIN=${MLMS_BIN:-$target/release/mlms} CHART_TOOLS=$target/charts PYTHONDONTWRITEBYTECODE=1
outcome=0
"$target/python/bin/python" -u tests/charts/main.py || outcome=1
if ! bats --tap tests/charts/minikube.bats >"$target/bats.log"; then outcome=1; fi
cat "$target/bats.log"
awk '/^ok /{p++} /^not ok /{f++} END {print p+0 " passed, " f+0 " failed"}' "$target/bats.log"
exit "$outcome"
