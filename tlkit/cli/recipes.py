"""Recipes: YAML files that ship with tlkit, named by their path without the suffix, or files of the user's own."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tlkit.errors import ConfigurationError, DataError, near, unknown

__all__ = [
    "copy_recipe",
    "find_launch_files",
    "find_recipe",
    "find_recipes",
    "parse_yaml",
    "read_recipe",
    "recipe_name",
]

# No recipe comes near these; a file that does is another one, or made to keep a machine busy.
_LARGEST, _MOST, _DEEPEST = 1_000_000, 50_000, 40
_PACKAGE = Path(__file__).resolve().parents[1]
# In the wheel the recipes lie inside the package, in a clone beside it.
_ROOTS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
_LAUNCH = "launch"  # the folder of files that start a recipe somewhere: scripts, and YAML that is no recipe


class _Loader(yaml.SafeLoader):
    """YAML as people write it: ``1e-3`` is a number, ``on`` and ``no`` are words, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError("a key must be a word or a number", node.start_mark)
            if key in keys:
                raise yaml.MarkedYAMLError(f"the key {key!r} is given twice", node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:[Tt]rue|TRUE|[Ff]alse|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text.

    Args:
        text: The text.
        source: Where it came from, for the error message.

    Raises:
        ConfigurationError: If it is not YAML, gives a key twice, contains itself, or is larger or deeper than a recipe
            can be once its aliases are unfolded.

    Example:
        >>> parse_yaml("lr: 1e-3", "an example")
        {'lr': 0.001}
    """
    if len(text) > _LARGEST:
        raise ConfigurationError(f"{source} has {len(text):,} characters, a recipe has at most {_LARGEST:,}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_unfolded(node, {}, [])
            return loader.construct_document(node)
        finally:
            loader.dispose()
    # ValueError: a date or a number that is none, such as 2024-13-45.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ConfigurationError(f"{source} is not valid YAML: {reason}") from error


def _check_unfolded(node: yaml.Node, known: dict[int, int], above: list[int]) -> int:
    """Return how many values a node holds with all its aliases unfolded, as messages and copies unfold them."""
    if id(node) in above:
        raise yaml.MarkedYAMLError("an alias stands inside what it names", node.start_mark)
    if len(above) > _DEEPEST:
        raise yaml.MarkedYAMLError(f"it is nested more than {_DEEPEST} deep", node.start_mark)
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_check_unfolded(each, known, [*above, id(node)]) for each in inner)
        if known[id(node)] > _MOST:
            raise yaml.MarkedYAMLError(
                f"with its aliases unfolded it holds more than {_MOST:,} values", node.start_mark
            )
    return known[id(node)]


def find_recipes() -> dict[str, str]:
    """Return the recipes that come with tlkit: name -> title, the first line of the file's header comment."""
    root = _root()
    files = sorted(root.rglob("*.yaml")) if root else []
    names = {file: file.relative_to(root).with_suffix("").as_posix() for file in files if root}
    return {name: _title(file) for file, name in names.items() if not name.startswith(f"{_LAUNCH}/")}


def find_launch_files() -> dict[str, str]:
    """Return the files that start a training somewhere: name with suffix, ``launch/slurm.sbatch`` -> title."""
    root = _root()
    files = sorted((root / _LAUNCH).glob("*")) if root else []
    return {f"{_LAUNCH}/{file.name}": _title(file) for file in files}


def find_recipe(recipe: str) -> Path:
    """Return the file of a recipe.

    Args:
        recipe: The name of a recipe (``digits/mnist_to_optdigits_mmd``), which may end in ``.yaml`` as its file does,
            or a path to a YAML file.

    Raises:
        ConfigurationError: If there is neither such a recipe nor such a file.
    """
    names = find_recipes()
    root = _root()
    if recipe in names and root:
        return root / f"{recipe}.yaml"
    path = Path(recipe)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigurationError(f"--config: {recipe!r} is a folder; give a YAML file, as in {path / 'config.yaml'}")
    name = recipe.removesuffix(".yaml").removesuffix(".yml")
    if name in names and root:
        return root / f"{name}.yaml"
    hits = " or ".join(repr(hit) for hit in near(name, names))
    what = f"there is no file {recipe!r}" if name != recipe else f"unknown recipe {recipe!r}"
    raise ConfigurationError(
        f"--config: {what}{f': did you mean {hits}?' if hits else ';'} 'tlkit recipes' lists the recipes by name, "
        "and a path to a YAML file is a recipe too"
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe's YAML as a plain dict.

    Raises:
        ConfigurationError: If the file cannot be read or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the recipe {path} cannot be read: {error}") from error
    recipe = parse_yaml(text, str(path))
    if not isinstance(recipe, dict):
        raise ConfigurationError(f"the recipe {path} must be a mapping with 'model' and 'data', got {recipe!r}")
    return recipe


def recipe_name(path: Path) -> str:
    """Return the name under which a recipe's runs are kept: the recipe's own, or the stem of the user's file.

    Example:
        >>> recipe_name(Path("somewhere/mine.yaml"))
        'mine'
    """
    root = _root()
    if root and path.resolve().is_relative_to(root):
        return path.resolve().relative_to(root).with_suffix("").as_posix()
    return path.stem


def copy_recipe(recipe: str, file: str) -> Path:
    """Copy a recipe, or a launch file, to a file that does not exist yet.

    Raises:
        ConfigurationError: If there is neither such a recipe nor such a launch file.
        DataError: If the file exists, or its folder does not.
    """
    source, path = _find_launch_file(recipe) or find_recipe(recipe), Path(file)
    if path.is_dir():
        path = path / source.name
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise DataError(f"{path} exists and is not written over; give another file name") from error
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _find_launch_file(name: str) -> Path | None:
    if not name.startswith(f"{_LAUNCH}/") or Path(name).exists():
        return None
    names, root = find_launch_files(), _root()
    if name not in names or root is None:
        raise ConfigurationError(unknown("launch file", name, names))
    return root / name


def _root() -> Path | None:
    return next((root for root in _ROOTS if root.is_dir()), None)


def _title(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    first = (text.partition("\n")[2] if text.startswith("#!") else text).partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
