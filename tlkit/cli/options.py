"""The words after ``tlkit fit``: which of them are the command's own and which override the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tlkit.cli.recipes import parse_yaml
from tlkit.errors import ConfigurationError, unknown

__all__ = ["KEYS", "NAMES", "Options", "override", "parse_options"]


@dataclass
class Options:
    """A parsed command line.

    Attributes:
        own: The command's own options (``config``, ``ckpt_path``, ...); a flag holds ``""``.
        overrides: Dotted key of the recipe -> value, in the order given.
    """

    own: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)


# The top level of a recipe.
KEYS = ("recipe", "seed_everything", "start_from", "model", "data", "trainer", "logger", "runs", "run_id")
# Those that are words and not YAML: --run_id=007 is the folder 007.
NAMES = ("recipe", "start_from", "runs", "run_id")


def parse_options(command: str, words: Sequence[str], own: Sequence[str], flags: Sequence[str] = ()) -> Options:
    """Split a command line into ``--key=value`` or ``--key value``.

    Args:
        command: The sub-command, for error messages.
        words: What came after it.
        own: The command's own options that take a value.
        flags: The command's own options that take none.

    Raises:
        ConfigurationError: If a word is not an option, an option is unknown (abbreviations are) or comes twice, or a
            value is missing or not YAML.

    Example:
        >>> parse_options("fit", ["--config", "mine.yaml", "--trainer.max_steps=3"], own=["config"])
        Options(own={'config': 'mine.yaml'}, overrides={'trainer.max_steps': 3})
    """
    options = Options()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            hint = f" Did you mean '--config {word}'?" if "config" not in options.own else ""
            raise ConfigurationError(f"tlkit {command} takes options (--key=value), got {word!r}.{hint}")
        key, equals, value = word[2:].partition("=")
        if key.partition(".")[0] not in (*own, *flags, *KEYS):
            allowed = [f"--{name}" for name in (*own, *flags, *KEYS)]
            raise ConfigurationError(unknown(f"option of tlkit {command}", f"--{key}", allowed))
        if key in flags:
            if equals:
                raise ConfigurationError(f"--{key} takes no value, got {value!r}")
            options.own[key] = ""
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigurationError(f"--{key} needs a value: --{key}=...")
            value = rest.pop(0)
        if key in options.own or key in options.overrides:
            raise ConfigurationError(f"--{key} is given twice")
        if key in own:
            options.own[key] = value
        else:
            plain = not value or key in NAMES
            options.overrides[key] = value if plain else parse_yaml(value, f"the value of --{key}")
    return options


def override(recipe: dict[str, Any], key: str, value: Any) -> None:
    """Set one value of a recipe, in place.

    The dotted key may leave out ``init_args``, and names an entry of a list by its number or its class:
    ``data.batch_size``, ``model.adaptation.0.weight``, ``model.adaptation.MMD.weight``.

    Raises:
        ConfigurationError: If the key leads through something that has no keys.

    Example:
        >>> recipe = {"data": "Digits", "model": {"adaptation": [{"class_path": "MMD"}]}}
        >>> override(recipe, "data.batch_size", 8)
        >>> override(recipe, "model.adaptation.MMD.weight", 0.5)
        >>> recipe["data"]
        {'class_path': 'Digits', 'init_args': {'batch_size': 8}}
        >>> recipe["model"]["adaptation"]
        [{'class_path': 'MMD', 'init_args': {'weight': 0.5}}]
    """
    parts = key.split(".")
    if not all(parts):
        raise ConfigurationError(f"--{key} is not a dotted key, as in --trainer.max_steps=100")
    node: Any = recipe
    for depth, part in enumerate(parts):
        where, last = ".".join(parts[:depth]), depth == len(parts) - 1
        if isinstance(node, list):
            place: Any = _entry(node, part, where)
            _make_class(node, place, parts[depth + 1 :])
        else:
            if "class_path" in node and part not in ("class_path", "init_args", "dict_kwargs"):
                node = _mapping(node, "init_args", f"{where}.init_args")
            place = part
            if not last:
                _make_class(node, place, parts[depth + 1 :])
        if last:
            node[place] = value
        elif isinstance(node, list) or isinstance(node.get(place), list):
            node = node[place]
        else:
            node = _mapping(node, place, ".".join(parts[: depth + 1]))


def _make_class(parent: Any, place: Any, below: Sequence[str]) -> None:
    """Spell a class out as a mapping when an override goes into it; ``weight: 1.0`` gives way to a class."""
    child = parent[place] if isinstance(parent, list) else parent.get(place)
    if not below or child is None:
        return
    if isinstance(child, str):
        parent[place] = {"class_path": child, "init_args": {}}
    elif not isinstance(child, dict | list) and below[0] == "class_path":
        parent[place] = {}


def _mapping(node: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    if node.get(key) is None:
        node[key] = {}
    child = node[key]
    if not isinstance(child, dict):
        raise ConfigurationError(f"{where} is {child!r} and has no keys to override")
    return child


def _entry(entries: list[Any], part: str, where: str) -> int:
    names = [_class_name(entry) for entry in entries]
    if part.isdigit() and int(part) < len(entries):
        return int(part)
    if names.count(part) == 1:
        return names.index(part)
    if names.count(part) > 1:
        numbers = [str(n) for n, name in enumerate(names) if name == part]
        raise ConfigurationError(f"{where} has {part} {len(numbers)} times; name one by its number: {numbers}")
    raise ConfigurationError(unknown(f"entry of {where}", part, [*names, *map(str, range(len(entries)))]))


def _class_name(entry: Any) -> str:
    path = entry.get("class_path", "") if isinstance(entry, dict) else entry
    return str(path).rpartition(".")[2]
