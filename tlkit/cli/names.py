"""Class names in recipes: a bare name is looked up in its slot's package, anything dotted is an import path."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from dataclasses import dataclass, replace
from typing import Any

from tlkit.errors import ConfigurationError, near, unknown

__all__ = [
    "SLOTS",
    "Slot",
    "import_class",
    "kind_of",
    "listing",
    "load_object",
    "plain",
    "prose",
    "resolve_class",
    "resolve_kind",
    "slot_of",
]


@dataclass(frozen=True)
class Slot:
    """A place in a recipe that takes a class.

    Attributes:
        name: What the class is, in error messages.
        base: Import path of the class that it must extend.
        packages: Where bare names are looked up, the first hit counts.
    """

    name: str
    base: str
    packages: tuple[str, ...]


# From the most special base to the most general: a loss is an nn.Module too.
SLOTS = (
    Slot("adaptation loss", "tlkit.losses.AdaptationLoss", ("tlkit.losses",)),
    Slot("task", "tlkit.tasks.Task", ("tlkit.tasks",)),
    Slot("data module", "tlkit.data.DomainDataModule", ("tlkit.data",)),
    Slot("schedule", "tlkit.schedules.Schedule", ("tlkit.schedules",)),
    Slot("callback", "lightning.pytorch.Callback", ("tlkit.callbacks", "lightning.pytorch.callbacks")),
    Slot("optimizer", "torch.optim.Optimizer", ("torch.optim",)),
    Slot(
        "learning rate scheduler",
        "torch.optim.lr_scheduler.LRScheduler",
        ("torch.optim.lr_scheduler",),
    ),
    Slot("fine-tuning strategy", "tlkit.finetuning.FineTuning", ("tlkit.finetuning",)),
    Slot("backbone", "torch.nn.Module", ("tlkit.backbones",)),
)

_LISTS = {
    "backbones": "backbone",
    "losses": "adaptation loss",
    "tasks": "task",
    "data": "data module",
    "finetuning": "fine-tuning strategy",
    "schedules": "schedule",
    "callbacks": "callback",
}


def slot_of(base: type) -> Slot | None:
    """Return the slot whose classes a parameter annotated with ``base`` takes, if there is one."""
    return next((slot for slot in SLOTS if issubclass(base, _base(slot))), None)


def resolve_class(name: str, base: type, where: str) -> tuple[type, str]:
    """Return the class that a recipe names, and its import path.

    Args:
        name: A bare class name, or an import path. The current directory is importable.
        base: The class that it must extend.
        where: The key in the recipe, for error messages.

    Raises:
        ConfigurationError: If there is no such class, or it does not extend ``base``.
    """
    slot = slot_of(base)
    if "." in name:
        found, path = import_class(name, where), name
    else:
        everything = _offered(slot) if slot else {}
        offered = {key: entry for key, entry in everything.items() if issubclass(entry[0], base)}
        if name not in offered:
            what = slot.name if slot else base.__name__
            raise ConfigurationError(
                f"{where}: {unknown(what, name, offered)} A class of your own is named by its import path, "
                "as in my_file.MyClass."
            )
        found, path = offered[name]
    if not issubclass(found, base):
        kind = slot.name if slot else base.__name__
        raise ConfigurationError(
            f"{where}: {name} cannot be the {kind}: it must extend {base.__module__}.{base.__qualname__}"
        )
    if inspect.isabstract(found):
        raise ConfigurationError(f"{where}: {name} is abstract and cannot be built; name a class that extends it")
    return found, path


def import_class(path: str, where: str) -> type:
    """Import a class by its dotted path.

    Raises:
        ConfigurationError: If the module or the class is not there, or what is there is not a class.
    """
    found = load_object(path, where)
    if not isinstance(found, type):
        raise ConfigurationError(f"{where}: {path} is a {type(found).__name__}, not a class")
    return found


def load_object(path: str, where: str) -> Any:
    """Import what a dotted path names; near names if the last part is misspelt.

    Raises:
        ConfigurationError: If it cannot be imported.
    """
    _make_current_directory_importable()
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"{where}: {module_name} needs the package {error.name!r}: {error}") from error
        raise ConfigurationError(
            f"{where}: there is no module {module_name!r} to import {path} from; import paths start in the current "
            f"directory or in an installed package"
        ) from error
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"{where}: {module_name} cannot be imported: {error}") from error
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
        hits = near(name, classes)
        there = f"; it has {', '.join(sorted(classes)) or 'no class'}"
        hint = f": did you mean {' or '.join(hits)}?" if hits else there
        raise ConfigurationError(f"{where}: the module {module_name} has no {name}{hint}")
    return getattr(module, name)


def listing(kind: str) -> str:
    """Return tlkit's own classes of a kind, one a line: name, first docstring line, paper or source.

    Args:
        kind: ``backbones``, ``losses``, ``tasks``, ``data``, ``finetuning``, ``schedules`` or ``callbacks``.

    Raises:
        ConfigurationError: If there is no such kind.
    """
    slot = _of_kind(kind)
    slot = replace(slot, packages=slot.packages[:1])  # without Lightning's callbacks
    rows = [(name, *_describe(found)) for name, (found, _) in sorted(_offered(slot).items())]
    width = max(len(name) for name, *_ in rows)
    lines = []
    for name, summary, origin in rows:
        lines.append(f"{name:<{width}}  {summary}")
        if origin:
            lines.append(f"{'':<{width}}    {origin}")
    return "\n".join(lines)


def resolve_kind(kind: str, name: str) -> tuple[type, str]:
    """Return a class of a kind, and its import path; as :func:`resolve_class`."""
    return resolve_class(name, _base(_of_kind(kind)), f"tlkit list {kind}")


def kind_of(slot: Slot) -> str | None:
    """Return what ``tlkit list`` calls the classes of a slot, if it lists them."""
    return next((kind for kind, name in _LISTS.items() if name == slot.name), None)


def _of_kind(kind: str) -> Slot:
    if kind not in _LISTS:
        raise ConfigurationError(unknown("list", kind, _LISTS))
    return next(slot for slot in SLOTS if slot.name == _LISTS[kind])


def _offered(slot: Slot) -> dict[str, tuple[type, str]]:
    """Return the classes that a slot's packages offer: bare name -> class and import path."""
    base = _base(slot)
    offered: dict[str, tuple[type, str]] = {}
    for package in slot.packages:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", None) or vars(module):
            found = getattr(module, name, None)
            if isinstance(found, type) and issubclass(found, base) and found is not base:
                offered.setdefault(name, (found, f"{package}.{name}"))
    return offered


def _base(slot: Slot) -> type:
    module, _, name = slot.base.rpartition(".")
    base: type = getattr(importlib.import_module(module), name)
    return base


# A sentence of a docstring that names where a method or a data set comes from: authors and a year, in parentheses or
# with the title in quotation marks.
_ORIGIN = re.compile(r'\bet al\.?,|\([A-Z][^()]*,? (?:19|20)\d\d|"[^"]+",[^."]* (?:19|20)\d\d')


def prose(found: type) -> str:
    """Return what a class's docstring says before its sections."""
    text = re.split(r"^(?:Args|Attributes|Raises|Example):", inspect.getdoc(found) or "", flags=re.MULTILINE)[0]
    return plain(text).strip()


def plain(text: str) -> str:
    """Return a text without the marks of reStructuredText.

    Example:
        >>> plain("``None`` for all, see :func:`~tlkit.data.read_table`")
        'None for all, see tlkit.data.read_table'
    """
    return re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", lambda match: match[1] or match[2], text)


def _describe(found: type) -> tuple[str, str]:
    """Return the first line of a class's docstring, and the first sentence of the rest that names its origin."""
    summary, _, rest = prose(found).partition("\n")
    if _ORIGIN.search(summary):
        return summary, ""
    sentences = re.split(r"(?<=\.)\s+(?=[A-Z])|\n\n|^- ", rest, flags=re.MULTILINE)
    return summary, next((" ".join(sentence.split()) for sentence in sentences if _ORIGIN.search(sentence)), "")


def _make_current_directory_importable() -> None:
    # Last, so that a file of the user's cannot take the place of an installed module.
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
