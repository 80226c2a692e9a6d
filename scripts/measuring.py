"""What the measurements of speed share: processes and their CPU seconds, what else was running, docs/speed.md."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryFile
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
Unit = Literal["wall", "cpu"]
UNITS: dict[Unit, str] = {"wall": "on the clock", "cpu": "of the CPU"}
SECTIONS = ("start", "training")  # of docs/speed.md, in this order
FIRST_STEP = 77  # exit status of a process that was ended at its first step
QUIET = 0.1  # cores that other processes may keep busy while wall time still says how fast we are


@dataclass(frozen=True)
class Spent:
    """What a process took: seconds on the clock, and of the CPU (user and system, its ended children included)."""

    wall: float
    cpu: float


def run(command: list[str], expected: int = 0, folder: Path | None = None, **environment: Any) -> Spent:
    """Run a process with one thread, in ``folder``, and return what it took.

    Raises:
        SystemExit: With what it said, if it ends with another status than expected.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=settings(**environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # waited for: Popen must not do it again
    process.stderr.close()
    if process.returncode != expected:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said[-3000:]}")
    return Spent(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)


def settings(**environment: Any) -> dict[str, str]:
    """Return the environment of a process: one thread, and what it imports is this clone."""
    fixed = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]),
    }
    return {**os.environ, **fixed, **{key: str(value) for key, value in environment.items()}}


def started(command: list[str], **environment: Any) -> subprocess.Popen[str]:
    """Start a process as :func:`run` does, in a group of its own; what it says goes into a file that is its stderr."""
    said = TemporaryFile("w+")  # noqa: SIM115 - read when the process has ended
    process = subprocess.Popen(
        command, env=settings(**environment), stdout=said, stderr=said, text=True, start_new_session=True
    )
    process.stderr = said
    return process


def in_turns(
    contenders: dict[str, list[subprocess.Popen[str]]], seconds: float = 1.0
) -> dict[str, list[tuple[float, float]]]:
    """Let contenders work in turns until all have ended, each stopped while it is not its turn.

    Args:
        contenders: The processes of each, as :func:`started` returns them.
        seconds: How long a turn is.

    Returns:
        The turns of each, from when to when by ``time.perf_counter``.

    Raises:
        SystemExit: With what it said, if a process ends with another status than 0.
    """
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for group in contenders.values():
        _signal(group, signal.SIGSTOP)
    try:
        while any(process.poll() is None for group in contenders.values() for process in group):
            for name, group in contenders.items():
                if all(process.poll() is not None for process in group):
                    continue
                begin = time.perf_counter()
                _signal(group, signal.SIGCONT)
                time.sleep(seconds)
                _signal(group, signal.SIGSTOP)
                turns[name].append((begin, time.perf_counter()))
                for process in group:
                    if process.poll():
                        assert process.stderr is not None
                        process.stderr.seek(0)
                        raise SystemExit(f"{process.args!r} ended with {process.returncode}:\n{process.stderr.read()}")
    finally:
        for group in contenders.values():
            _signal(group, signal.SIGKILL)
            for process in group:
                process.wait()
                if process.stderr is not None:
                    process.stderr.close()
    return turns


def _signal(group: list[subprocess.Popen[str]], number: signal.Signals) -> None:
    for process in group:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


class OthersAtWork:
    """Tells how many cores other processes keep busy, by what it sees while none of ours is running."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def look(self, seconds: float = 0.5) -> None:
        """Sleep, and see what the processors do meanwhile."""
        before = self._busy()
        time.sleep(seconds)
        after = self._busy()
        if before is not None and after is not None:
            self.seen.append((after - before) / seconds)

    @staticmethod
    def _busy() -> float | None:
        """Return the CPU seconds of everything since the machine started, or ``None`` where they are not told."""
        try:
            fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except OSError:  # not Linux
            return None
        user, nice, system, _idle, _waiting, irq, softirq, steal = fields
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    @property
    def judged_by(self) -> Unit:
        """What a comparison is to be judged by: wall time on a quiet machine, else CPU seconds."""
        return "cpu" if self.seen and fmean(self.seen) > QUIET else "wall"

    def words(self) -> str:
        """Return a sentence that says by what, and why."""
        if not self.seen:
            return "Judged by wall time; this system does not tell what else was running."
        state = f"Other processes kept {fmean(self.seen):.1f} of {os.cpu_count()} cores busy"
        if self.judged_by == "wall":
            return f"{state}: judged by wall time."
        return f"{state}: wall times are upper bounds, judged by CPU seconds."


class Clock:
    """Seconds by name, of what runs inside :meth:`measure` and in no other inside of it.

    Args:
        timer: Says what time it is: ``time.perf_counter``, or ``time.process_time`` for CPU seconds.
    """

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        self.timer, self.seconds = timer, defaultdict[str, float](float)
        self._inside: list[str] = []
        self._since = timer()

    def settle(self) -> None:
        """Bring :attr:`seconds` up to now."""
        now = self.timer()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        self.settle()
        self._inside.append(name)
        try:
            yield
        finally:
            self.settle()
            self._inside.pop()

    def wrap(self, owner: Any, function: str, name: str) -> None:
        """Let every call of ``owner.function`` be measured."""
        original = getattr(owner, function)

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside and self._inside[-1] == name:
                return original(*arguments, **named)
            with self.measure(name):
                return original(*arguments, **named)

        setattr(owner, function, timed)


def where() -> str:
    """Return the machine and the versions that a measurement is of."""
    names = ("lightning", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}, {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def command() -> str:
    """Return the words that this program was started with."""
    return " ".join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def keep(section: str, lines: list[str], folder: Path = DOCS) -> None:
    """Put a section's lines into ``speed.json``, and write ``speed.md`` anew: its head, then all sections there are."""
    store = folder / "speed.json"
    content = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    content[section] = {"where": where(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "command": command(), "lines": lines}
    page = [(folder / "speed.head.md").read_text(encoding="utf-8").rstrip()]
    for name in (each for each in SECTIONS if each in content):
        found = content[name]
        page += ["", f"## {name.capitalize()}", "", f"`{found['command']}`, {found['where']}, {found['date']}.", ""]
        page += found["lines"]
    for path, text in (
        (store, json.dumps(content, indent=1, ensure_ascii=False)),
        (folder / "speed.md", "\n".join(page)),
    ):
        aside = path.with_name(f"{path.name}.part")
        aside.write_text(f"{text}\n", encoding="utf-8")
        aside.replace(path)
