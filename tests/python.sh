#!/usr/bin/env bash
# Makes target/python, a virtual environment with what the tests take from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python
[[ -x $environment/bin/pip ]] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check --requirement tests/requirements.txt
