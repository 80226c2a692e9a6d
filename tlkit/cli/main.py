"""The command ``tlkit``: finds the sub-command and turns the user's errors into a message and exit status 2.

Nothing heavy is imported here, so that ``tlkit --help`` and a misspelt sub-command answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tlkit.errors import ConfigurationError, RunError, TlkitError, near

__all__ = ["dispatch", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one ``tlkit`` command.

    Args:
        argv: The words after ``tlkit``; those of the process if not given.

    Returns:
        The exit status: 0, 1 if a run could not go on, 2 if the user's input is at fault, 130 if the run was
        interrupted, 141 if whoever read the output went away, as ``head`` does.
    """
    try:
        status = _status(list(sys.argv[1:] if argv is None else argv))
        _flush()  # the interpreter would do it too late to say anything
        return status
    except OSError as error:
        if not _output_is_lost():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at its end
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"tlkit: error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        return 1


def _status(words: list[str]) -> int:
    """Run one command and return its exit status, with a message for what is the user's to mend."""
    try:
        return dispatch(words)
    except TlkitError as error:
        rank = next((os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if os.environ.get(name)), "0")
        where = "" if rank == "0" else f" (rank {rank})"
        print(f"tlkit: error{where}: {_own_words(error)}", file=sys.stderr)
        return 1 if isinstance(error, RunError) else 2
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # what Lightning makes of a Ctrl-C, without a word
            return _stopped()
        _flush()
        raise


def _flush() -> None:
    if sys.stdout is not None:  # it is where the process has no standard output
        sys.stdout.flush()


def _output_is_lost() -> bool:
    """Return whether it is standard output that could not be written, and not a file or a pipe to another process."""
    try:
        print(flush=True)  # one more line end does no harm before a traceback
    except OSError:
        return True
    return False


def _stopped() -> int:
    print("tlkit: stopped", file=sys.stderr)
    return 130


def dispatch(words: list[str]) -> int:
    """Run one command as :func:`main` does, with errors raised: :class:`~tlkit.errors.TlkitError` is the user's."""
    from tlkit.cli import help as help_text

    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text.OVERVIEW)
        return 0
    if words[0] == "--version":
        from tlkit import __version__

        print(f"tlkit {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in _COMMANDS:
        hits = near(name, _COMMANDS, most=1)
        hint = f"did you mean '{hits[0]}'? " if hits else ""
        raise ConfigurationError(
            f"unknown command {name!r}: {hint}Commands: {', '.join(_COMMANDS)}. See 'tlkit --help'."
        )
    if "-h" in rest or "--help" in rest:
        print(help_text.COMMANDS[name])
        return 0
    return _COMMANDS[name](rest)


# Each of these reads the request first: most mistakes are found before the seconds that importing torch takes.
def _fit(rest: list[str]) -> int:
    from tlkit.cli.request import fit_request

    request = fit_request(rest)
    if request.show == "help":
        from tlkit.cli.help import COMMANDS

        with _imports():
            from tlkit.cli.arguments import all_options
        print(f"{COMMANDS['fit']}\n\n{all_options()}")
        return 0
    if sys.stderr.isatty():
        print("starting: importing PyTorch and reading the data takes some seconds", file=sys.stderr)
    with _imports():
        from tlkit.cli.training import fit

    return fit(request)


def _validate(rest: list[str]) -> int:
    return _evaluate("validate", rest)


def _test(rest: list[str]) -> int:
    return _evaluate("test", rest)


def _evaluate(command: str, rest: list[str]) -> int:
    from tlkit.cli.request import checkpoint_request

    request = checkpoint_request(command, rest)
    with _imports():
        from tlkit.cli.evaluation import evaluate

    return evaluate(request)


def _predict(rest: list[str]) -> int:
    from tlkit.cli.request import checkpoint_request

    request = checkpoint_request("predict", rest)
    with _imports():
        from tlkit.cli.evaluation import predict

    return predict(request)


def _ray(rest: list[str]) -> int:
    from tlkit.cli.on_ray import run_on_ray

    return run_on_ray(rest)


def _shards(rest: list[str]) -> int:
    from tlkit.cli.request import shard_request

    request = shard_request(rest)
    with _imports():
        from tlkit.cli.shards import write

    return write(request)


def _recipes(rest: list[str]) -> int:
    from tlkit.cli.recipes import find_launch_files, find_recipes

    (pattern,) = _words("recipes", rest, least=0, most=1) or [""]
    # Launch files are no recipes, and are listed only where somebody looks for them.
    there = find_launch_files() if pattern.lower().startswith("launch") else find_recipes()
    found = {name: title for name, title in there.items() if pattern.lower() in f"{name} {title}".lower()}
    if not found:
        raise ConfigurationError(f"no recipe matches {pattern!r}; 'tlkit recipes' lists them all")
    width = max(map(len, found))
    for name, title in found.items():
        print(f"{name:<{width}}  {title}".rstrip())
    return 0


def _copy(rest: list[str]) -> int:
    from tlkit.cli.recipes import copy_recipe

    recipe, file = _words("copy", rest, least=2, most=2)
    path = copy_recipe(recipe, file)
    launch = recipe.startswith("launch/")
    print(
        f"wrote {path}; "
        + ("its first lines say how to use it" if launch else f"run it with: tlkit fit --config {path}")
    )
    return 0


def _list(rest: list[str]) -> int:
    from tlkit.cli.names import listing

    kind, *names = _words("list", rest, least=1, most=2)
    if not names:
        print(listing(kind))
        return 0
    from tlkit.cli.arguments import of_class

    print(of_class(kind, names[0]))
    return 0


@contextmanager
def _imports() -> Iterator[None]:
    """End the process at once on a Ctrl-C: raised inside an import it is lost, or an extension module aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        os.write(2, b"tlkit: stopped\n")
        os._exit(130)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _words(command: str, rest: list[str], least: int, most: int) -> list[str]:
    from tlkit.cli.help import COMMANDS

    usage = COMMANDS[command].splitlines()[0]
    options = [word for word in rest if word.startswith("-")]
    if options:
        raise ConfigurationError(f"tlkit {command} takes no option {options[0]!r}. {usage}")
    if not least <= len(rest) <= most:
        raise ConfigurationError(f"tlkit {command} got {len(rest)} words. {usage}")
    return rest


def _own_words(error: TlkitError) -> str:
    """Return the message of an error, without the traceback that a loader's worker process puts before it."""
    message = str(error)
    marker = f"{type(error).__name__}: "
    if message.startswith("Caught ") and marker in message:
        return message.rsplit(marker, 1)[1].strip()
    return message


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "fit": _fit,
    "validate": _validate,
    "test": _test,
    "predict": _predict,
    "ray": _ray,
    "shards": _shards,
    "recipes": _recipes,
    "copy": _copy,
    "list": _list,
}
