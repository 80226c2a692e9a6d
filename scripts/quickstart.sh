#!/usr/bin/env bash
# From a fresh clone to an adapted model: makes .venv from requirements.lock if it is not there, trains on MNIST with and
# without adaptation to optdigits, whose labels it never sees, and prints both results. Needs bash and Python, no data.
#   bash scripts/quickstart.sh           under 90 seconds after set-up
#   bash scripts/quickstart.sh --quick   a few steps, to see that everything works; the figures mean nothing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

case ${1-} in
  "" | --quick) ;;
  *) fail "unknown option '$1'. Usage: bash scripts/quickstart.sh [--quick]" ;;
esac

prepare_environment run
exec "$python" scripts/quickstart.py "$@"
