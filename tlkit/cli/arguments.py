"""What the classes of a recipe take: each argument with its type, its default and what it means."""

from __future__ import annotations

import argparse
import collections.abc
import inspect
import textwrap
import types
import typing
from typing import Any

from tlkit.cli.check import TAKEN
from tlkit.cli.names import kind_of, plain, prose, resolve_kind, slot_of

__all__ = ["all_options", "of_class"]

# Trainer options that every run refuses.
_REFUSED = (*TAKEN, "overfit_batches")
_ANYTHING = "any value"


def of_class(kind: str, name: str) -> str:
    """Return what ``tlkit list KIND NAME`` prints: what a class is, and its arguments.

    Args:
        kind: As in :func:`tlkit.cli.names.listing`.
        name: A bare class name, or an import path.

    Raises:
        ConfigurationError: If there is no such kind or class.
    """
    found, path = resolve_kind(kind, name)
    arguments = _arguments(found, "")
    return f"{path}\n\n{prose(found)}\n\n" + ("Arguments:\n" + "\n".join(arguments) if arguments else "No arguments.")


def all_options() -> str:
    """Return every option of ``tlkit fit`` that a recipe can set, but the arguments of the classes that it names."""
    from lightning.pytorch import Trainer

    from tlkit.module import TransferModule

    model = "\n".join(_arguments(TransferModule, "--model."))
    trainer = "\n".join(_arguments(Trainer, "--trainer.", leave_out=_REFUSED))
    return f"""\
The model: a class by its name or import path, or {{class_path: NAME, init_args: {{...}}}};
what each class takes is shown by: tlkit list backbones|losses|tasks|data|finetuning|schedules NAME
{model}

The data: a class too, with arguments of its own
  --data  data module (tlkit list data), required

The trainer: Lightning's
{trainer}"""


def _arguments(target: type, prefix: str, leave_out: tuple[str, ...] = ()) -> list[str]:
    """Return the lines on each argument of a class, those behind ``**kwargs`` included."""
    from jsonargparse import ArgumentParser  # reads docstrings, and in the source where **kwargs go

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(target, fail_untyped=False)
    own = inspect.signature(target).parameters
    # Of an argument without a type jsonargparse does not say that it is required.
    required = {name for name, parameter in own.items() if parameter.default is parameter.empty}
    required |= {action.dest for action in parser._actions if action.required}
    lines = []
    # What is required comes first, as it does in a signature.
    for action in sorted(parser._actions, key=lambda action: action.dest not in required):
        # Suppressed are the options that jsonargparse adds: for the help of a class, for a file of arguments.
        if action.dest in leave_out or action.default == argparse.SUPPRESS:
            continue
        annotation = getattr(action, "_typehint", None) or action.type
        default = "required" if action.dest in required else f"default {_value(action.default)}"
        lines.append(f"  {prefix}{action.dest}  {_words(annotation)}, {default}")
        lines += textwrap.indent(plain(action.help or ""), 6 * " ").splitlines()
    return lines


def _words(annotation: Any) -> str:
    """Word a type; a class that a recipe names is called what ``tlkit list`` calls it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        words = list(dict.fromkeys(_words(each) for each in arguments if each is not types.NoneType))
        if _ANYTHING in words:
            return _ANYTHING
        return " | ".join([*words, *(["null"] if types.NoneType in arguments else [])])
    if origin is typing.Literal:
        return " | ".join(_value(each) for each in arguments)
    if origin is collections.abc.Callable:
        return _words(arguments[-1])
    if origin in (list, collections.abc.Sequence, collections.abc.Iterable):
        return f"list of {_words(arguments[0])}"
    if annotation in (Any, None) or str(annotation).endswith("Untyped"):  # as jsonargparse calls it
        return _ANYTHING
    if origin is None and isinstance(annotation, type) and annotation is not object:
        slot = slot_of(annotation)
        if slot is None:
            return annotation.__name__
        kind = kind_of(slot)
        return f"{slot.name} (tlkit list {kind})" if kind else slot.name
    return str(annotation).replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "null")


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, type) or callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return str(value) or "''"
