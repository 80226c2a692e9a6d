#!/usr/bin/env bash
# Make requirements.lock (to run tlkit) and requirements-dev.lock (to work on it) from pyproject.toml. Needs uv.
#   bash scripts/lock.sh             keep the versions that still fit
#   bash scripts/lock.sh --upgrade   take the newest of everything
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile() {
  # One version for Python 3.11 to 3.13 (fewest), so that every matrix job tests what the others test.
  uv pip compile pyproject.toml --group build --universal --python-version 3.11 --fork-strategy fewest \
    --generate-hashes --no-emit-index-url --custom-compile-command "bash scripts/lock.sh" --quiet "$@"
}

compile --output-file requirements.lock "$@"
compile --extra dev --constraint requirements.lock --output-file requirements-dev.lock "$@"
