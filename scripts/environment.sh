# Sourced by quickstart.sh and test.sh: makes .venv from the lock, once, and sets $python to its interpreter.
#
# .venv/.tlkit/ says what state the environment is in:
#   unfinished              an installation is under way, or was interrupted: start over
#   root, *.lock, pyproject.toml   copies of what was installed: the environment is up to date while they are equal

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${TLKIT_VENV:-$root/.venv}
python=$venv/bin/python

say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Print the newest Python among those that the lock is made for.
find_python() {
  local candidate
  for candidate in ${TLKIT_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "tlkit needs Python 3.11, 3.12 or 3.13, and none was found on the PATH." \
    "Install one, or name it: TLKIT_PYTHON=/path/to/python3.12 bash $0"
}

# same FILE: whether FILE is what was last installed from.
same() { cmp -s "$root/$1" "$venv/.tlkit/$1"; }

# install_lock LOCK: every package of LOCK at its pinned version, each checked against its hash.
install_lock() {
  local live=0
  [ -t 1 ] && live=1
  # The locks are complete and already resolved: pip has nothing to work out (--no-deps).
  PYTHONUNBUFFERED=1 "$python" -m pip install --disable-pip-version-check --require-hashes --no-deps --progress-bar off \
    -r "$root/$1" |
    awk -v live=$live '
      /^(Collecting|Processing|Requirement already)/ { ++count; if (live) { printf "\r    %d packages", count; fflush() } }
      /^Installing/ { if (live) printf ", unpacking ..."; fflush() }
      END { if (live) print ""; else printf "    %d packages\n", count }'
}

# prepare_environment run|develop: make the environment, or bring it up to date; silent when there is nothing to do.
prepare_environment() {
  local lock=requirements.lock what="all that tlkit needs to run" locks="requirements.lock"
  if [ "$1" = develop ]; then
    lock=requirements-dev.lock what="every extra and the tools to work on tlkit"
    locks="requirements.lock requirements-dev.lock" # the second holds all of the first
  fi

  if [ -e "$venv" ] && [ ! -d "$venv/.tlkit" ]; then
    fail "$venv exists and was not made by this script." \
      "Move it away, or choose another place: TLKIT_VENV=/path/to/venv bash $0"
  fi
  if [ -e "$venv/.tlkit/unfinished" ]; then
    say "An earlier installation into $venv was interrupted: starting over (downloads are cached)."
    rm -rf "$venv"
  elif [ -e "$venv" ] && { [ "$(cat "$venv/.tlkit/root" 2>/dev/null)" != "$root" ] || ! "$python" -c '' 2>/dev/null; }; then
    say "$venv belongs to another folder or to a Python that is gone: starting over."
    rm -rf "$venv"
  fi

  if [ ! -e "$venv" ]; then
    local base
    base=$(find_python)
    say "Making $venv with $("$base" --version) from $lock, $what:" \
      "about 6 GB on Linux, for PyTorch's CUDA libraries; 2 to 10 minutes, once ..."
    mkdir -p "$venv/.tlkit"
    touch "$venv/.tlkit/unfinished"
    "$base" -m venv "$venv" || fail "'$base -m venv' failed; on Debian and Ubuntu: apt install python3-venv"
  elif ! same "$lock"; then
    if [ -e "$venv/.tlkit/$lock" ]; then
      say "$lock has changed: updating $venv ..."
    else
      say "Adding to $venv from $lock: $what ..."
    fi
    touch "$venv/.tlkit/unfinished"
  fi
  if ! same "$lock"; then
    install_lock "$lock"
    rm -f "$venv"/.tlkit/*.lock # the other lock's packages may just have been replaced
    local installed
    for installed in $locks; do cp "$root/$installed" "$venv/.tlkit/"; done
  fi
  # The entry point and the version come from pyproject.toml; the code itself is read from the working tree.
  if ! same pyproject.toml; then
    say "Installing tlkit from $root ..."
    "$python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e "$root"
    cp "$root/pyproject.toml" "$venv/.tlkit/"
    printf '%s\n' "$root" >"$venv/.tlkit/root"
  fi
  rm -f "$venv/.tlkit/unfinished"
}
