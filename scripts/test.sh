#!/usr/bin/env bash
# Everything that a change must pass: ruff, mypy and pytest, in .venv (made from the lock if it is not there).
#   bash scripts/test.sh                     without the tests marked slow, gpu and network
#   bash scripts/test.sh --slow              the slow ones too
#   bash scripts/test.sh tests/losses -x     what is left over goes to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

marks="not slow and not gpu and not network"
arguments=()
for argument in "$@"; do
  case $argument in
    --slow) marks="not gpu and not network" ;;
    *) arguments+=("$argument") ;;
  esac
done

prepare_environment develop
say "ruff check"
"$python" -m ruff check .
say "ruff format --check"
"$python" -m ruff format --check .
say "mypy"
"$python" -m mypy
say "pytest -m '$marks' ${arguments[*]+"${arguments[*]}"}"
# Threads that spin while they wait cost more than they save where tests start several processes on a few cores.
OMP_WAIT_POLICY=passive "$python" -m pytest -m "$marks" ${arguments[@]+"${arguments[@]}"}
