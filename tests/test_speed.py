"""Short forms of scripts/bench_start.py and scripts/bench_train.py, and what both stand on.

Ratios are of CPU seconds, and their bounds wide enough for a busy machine: what is held down is a factor of two.
"""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def quick(script):
    """Return the rows of the tables that a script prints, each table under its first heading and number of columns."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, "--quick"], cwd=SCRIPTS.parent, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tables, lines = [], done.stdout.splitlines()
    for line, before in zip(lines, ["", *lines], strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append({})
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            tables[-1][name] = cells
    return tables


def test_the_command_starts_as_fast_as_a_script_of_the_same_parts():
    whole, parts = quick("bench_start.py")
    *seconds, ratio = map(float, whole["of the CPU"])
    assert 0.6 < ratio < 1.7
    known = [list(map(float, cells)) for cells in list(parts.values())[2:]]
    for total, of_parts in zip(seconds, zip(*known, strict=True), strict=True):
        assert sum(of_parts) == pytest.approx(total, rel=0.1)  # the clock is in all of it
    assert float(parts["imports"][1]) > 10 * float(parts["parsing it"][1])


def test_the_command_trains_as_fast_as_a_loop_by_hand():
    rates, shares = quick("bench_train.py")
    assert 0.6 < float(rates["CNN1d, 9x128"][4]) < 1.7
    _, *parts = (float(cell.removesuffix("%")) for cell in shares["CNN1d, 9x128"])
    assert sum(parts) == pytest.approx(100, abs=1)
    assert parts[-1] < 25  # Lightning and the rest


@pytest.fixture(scope="module")
def measuring():
    return runpy.run_path(str(SCRIPTS / "measuring.py"))


def test_a_clock_counts_each_second_once(measuring):
    now = [0.0]
    clock = measuring["Clock"](lambda: now[0])

    class Work:
        def inner(self):
            now[0] += 2

        def outer(self):
            now[0] += 1
            self.inner()
            now[0] += 4

    clock.wrap(Work, "inner", "inner")
    clock.wrap(Work, "outer", "outer")
    now[0] += 8  # outside of all
    Work().outer()
    assert clock.seconds == {"inner": 2, "outer": 5}


@pytest.mark.parametrize(("cores", "unit"), [([0.0, 0.1], "wall"), ([0.0, 0.3], "cpu"), ([], "wall")])
def test_a_busy_machine_is_judged_by_cpu_seconds(measuring, cores, unit):
    others = measuring["OthersAtWork"]()
    others.seen = cores
    assert others.judged_by == unit


def test_what_a_process_takes_is_measured(measuring):
    words = [sys.executable, "-S", "-c", "import time; time.sleep(0.3); sum(range(3_000_000)); raise SystemExit(7)"]
    spent = measuring["run"](words, expected=7)
    assert spent.wall > 0.3
    assert 0.02 < spent.cpu < spent.wall - 0.2  # asleep it takes nothing
    with pytest.raises(SystemExit, match="ended with 7"):
        measuring["run"](words)


def test_a_section_of_the_page_is_replaced_and_the_others_stay(measuring, tmp_path):
    (tmp_path / "speed.head.md").write_text("# Speed\n\nWhy.\n")
    for section, line in (("training", "slow"), ("start", "first"), ("training", "fast")):
        measuring["keep"](section, [line], tmp_path)
    lines = (tmp_path / "speed.md").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("`")] == [
        "# Speed", "Why.", "## Start", "first", "## Training", "fast",
    ]  # fmt: skip
    assert sorted(json.loads((tmp_path / "speed.json").read_text())) == ["start", "training"]


def test_contenders_take_turns_and_end(measuring, tmp_path):
    """Each notes when it works; what it notes lies in its turns, and none is left when one fails."""
    work = (
        "import sys, time\n"
        "end = time.process_time() + 0.6\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    while time.process_time() < end:\n"
        "        print(time.perf_counter(), file=file)\n"
    )
    names = ("one", "other")
    made = {name: [measuring["started"]([sys.executable, "-c", work, str(tmp_path / name)])] for name in names}
    turns = measuring["in_turns"](made, 0.2)
    for name in names:
        moments = [float(line) for line in (tmp_path / name).read_text().split()]
        assert len(turns[name]) >= 3
        inside = sum(any(begin <= moment <= end + 0.02 for begin, end in turns[name]) for moment in moments)
        assert inside > 0.95 * len(moments)  # a signal comes late on a busy machine; without turns half would be
    for (_, end), (begin, _) in zip(turns["one"], turns["other"], strict=False):
        assert end <= begin
    fails = {"a": [measuring["started"]([sys.executable, "-c", "import time; time.sleep(60)"])]}
    fails["b"] = [measuring["started"]([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"])]
    with pytest.raises(SystemExit, match="ended with 3:\nno luck"):
        measuring["in_turns"](fails, 0.1)
    assert fails["a"][0].returncode == -9
