"""Checks a recipe against the signatures of what it names, before jsonargparse sees it.

jsonargparse answers a misspelt class with ``Expected a path`` and takes ``--trainer.max_epoch`` for an abbreviation in
silence. Here every key is compared with the real parameters, bare class names become import paths, and the user reads
what was meant. Types of plain values are left to jsonargparse.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from dataclasses import dataclass
from typing import Any

from tlkit.cli.names import resolve_class, slot_of
from tlkit.cli.options import KEYS, NAMES
from tlkit.errors import ConfigurationError, unknown

__all__ = ["LOGGERS", "TAKEN", "check_data", "check_keys", "check_model", "check_recipe"]

LOGGERS = ("none", "wandb", "tensorboard", "mlflow")

# What tlkit decides itself in a run, and how the user asks for it instead.
TAKEN = {"logger": "--logger=wandb|tensorboard|mlflow", "default_root_dir": "--runs=DIR"}
# What a run cannot be without.
_IMPOSSIBLE = (
    ("enable_checkpointing", False, "the best checkpoint is tested, and a run goes on from its last"),
    ("barebones", True, "it trains without the checkpoints and metrics that a run leaves"),
)


_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)


@dataclass(frozen=True)
class _Parameter:
    annotation: Any
    default: Any = None

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def check_keys(recipe: dict[str, Any]) -> None:
    """Check the top level of a recipe, which needs no import.

    Raises:
        ConfigurationError: If a key is unknown, or ``model`` or ``data`` is missing.
    """
    for key in recipe:
        if key not in KEYS:
            raise ConfigurationError(unknown("key of the recipe", str(key), KEYS))
    for key in ("model", "data"):
        if not recipe.get(key):
            raise ConfigurationError(f"the recipe has no {key!r}; 'tlkit recipes' lists recipes to start from")
    if recipe.get("logger", "none") not in LOGGERS:
        raise ConfigurationError(unknown("logger", str(recipe["logger"]), LOGGERS))
    seed = recipe.get("seed_everything", 0)
    if not isinstance(seed, int) or seed < 0:
        raise ConfigurationError(f"seed_everything must be a whole number from 0 up, got {seed!r}")
    for key in NAMES:
        value = recipe.get(key)
        if value is not None and not (isinstance(value, str) and value.strip()):
            hint = f'; in YAML write {key}: "{value}"' if isinstance(value, int) else ""
            raise ConfigurationError(f"{key} must be a name, got {value!r}{hint}")


def check_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe with every class named by its import path.

    Raises:
        ConfigurationError: If a key or a class is unknown, a required one is missing, or a class does not fit its slot.
    """
    from lightning.pytorch import Trainer

    check_keys(recipe)
    trainer = recipe.get("trainer") or {}
    _must_be_mapping(trainer, "trainer")
    for key, instead in TAKEN.items():
        if trainer.get(key) is not None:
            raise ConfigurationError(f"trainer.{key} is set by tlkit; use {instead}")
    for key, value, why in _IMPOSSIBLE:
        if trainer.get(key) is value:
            raise ConfigurationError(f"trainer.{key} cannot be {str(value).lower()}: {why}; leave it out")
    return {
        **recipe,
        "model": check_model(recipe["model"]),
        "data": check_data(recipe["data"]),
        "trainer": _arguments(Trainer, trainer, "trainer"),
    }


def check_model(model: Any) -> dict[str, Any]:
    """Return the model's part of a recipe with every class named by its import path; as :func:`check_recipe`."""
    from tlkit.module import TransferModule

    checked = _arguments(TransferModule, model, "model")
    if checked.get("optimizer"):
        checked["optimizer"] = _with_own_defaults(checked["optimizer"])
    return checked


def _with_own_defaults(optimizer: dict[str, Any]) -> dict[str, Any]:
    """Write out the defaults of an optimizer that AdamW, the one in its place, has under the same name.

    jsonargparse keeps those of the class that a class takes the place of: SGD would have AdamW's weight decay of 0.01.
    """
    from torch.optim import AdamW, Optimizer

    kind, _ = resolve_class(optimizer["class_path"], Optimizer, "model.optimizer")
    if kind is AdamW:
        return optimizer
    shared = _parameters(AdamW).keys()
    own = {name: each.default for name, each in _parameters(kind).items() if name in shared and not each.required}
    return {**optimizer, "init_args": own | optimizer.get("init_args", {})}


def check_data(data: Any) -> Any:
    """Return the data's part of a recipe with every class named by its import path; as :func:`check_recipe`."""
    from tlkit.data import DomainDataModule

    return _resolve(data, DomainDataModule, "data")


def _arguments(target: type, given: Any, where: str, skip: int = 0) -> dict[str, Any]:
    """Check the arguments of a class; ``skip`` of its parameters are given by the caller."""
    _must_be_mapping(given, where)
    parameters = _parameters(target)
    names = list(parameters)[skip:]
    for key in given:
        if key not in names:
            raise ConfigurationError(f"{where}: {unknown(f'argument of {target.__name__}', str(key), names)}")
    # To jsonargparse null is not given.
    missing = [name for name in names if parameters[name].required and given.get(name) is None]
    if missing:
        raise ConfigurationError(f"{where}: {target.__name__} needs {', '.join(missing)}")
    return {key: _resolve(value, parameters[key].annotation, f"{where}.{key}") for key, value in given.items()}


def _resolve(value: Any, annotation: Any, where: str) -> Any:
    """Resolve the classes in a value by what its parameter is annotated with."""
    bases = _bases(annotation)
    if isinstance(value, list) and bases:
        return [_resolve(entry, _of_entries(annotation), f"{where}.{n}") for n, entry in enumerate(value)]
    if bases and isinstance(value, str | dict) and _takes_only_lists(annotation):
        given = value if isinstance(value, str) else value.get("class_path", "...")
        raise ConfigurationError(f"{where} takes a list, got one entry; write [{given}]")
    if isinstance(value, str) and bases and not _takes_text(annotation):
        return _class({"class_path": value}, bases, where)
    if isinstance(value, dict) and "class_path" in value and bases:
        return _class(value, bases, where)
    if isinstance(value, dict) and bases and "init_args" in value:
        raise ConfigurationError(f"{where} has init_args but no class_path")
    if isinstance(value, dict) and bases and not _takes_mapping(annotation):
        raise ConfigurationError(f"{where} takes a class: class_path and init_args; got the keys {sorted(value)}")
    kinds = [each for each in _alternatives(annotation) if isinstance(each, type) and dataclasses.is_dataclass(each)]
    if isinstance(value, dict) and kinds and not _takes_mapping(annotation):
        return _arguments(kinds[0], value, where)
    _check_type(value, annotation, where)
    return value


def _check_type(value: Any, annotation: Any, where: str) -> None:
    """Have jsonargparse check one plain value, where its own report would be of the whole tree around it."""
    from jsonargparse import ArgumentError, ArgumentParser

    if annotation in (inspect.Parameter.empty, Any) or "class_path" in str(value):
        return
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    try:
        parser.parse_object({"value": value})
    except (ArgumentError, TypeError, ValueError) as error:
        choices = _choices(annotation)
        if choices and isinstance(value, str):
            raise ConfigurationError(unknown(f"value for {where}", value, choices)) from error
        words = isinstance(value, list) and any(isinstance(each, (int, float)) for each in value)
        hint = f": write {[str(each) for each in value]}" if words and "list[str]" in _wording(annotation) else ""
        raise ConfigurationError(f"{where} must be {_wording(annotation)}, got {value!r}{hint}") from error


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [choice for choice in typing.get_args(annotation) if isinstance(choice, str)]
    return [choice for argument in typing.get_args(annotation) for choice in _choices(argument)]


def _wording(annotation: Any) -> str:
    """Return a type as a user reads it: ``list[str] or None``."""
    if annotation is type(None):
        return "null"
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_wording(argument) for argument in typing.get_args(annotation))
    plain = isinstance(annotation, type) and not typing.get_args(annotation)
    return annotation.__name__ if plain else str(annotation).replace("collections.abc.", "").replace("typing.", "")


def _class(value: dict[str, Any], bases: list[tuple[type, int]], where: str) -> dict[str, Any]:
    for key in value:
        if key not in ("class_path", "init_args", "dict_kwargs"):
            raise ConfigurationError(f"{where}: {unknown('key', str(key), ['class_path', 'init_args'])}")
    name = value["class_path"]
    if not isinstance(name, str):
        raise ConfigurationError(f"{where}.class_path must be the name of a class, got {name!r}")
    found, path, skip = _first_fit(name, bases, where)
    arguments = _arguments(found, value.get("init_args") or {}, where, skip)
    resolved = {"class_path": path, "init_args": arguments}
    return resolved | {key: value[key] for key in ("dict_kwargs",) if key in value}


def _first_fit(name: str, bases: list[tuple[type, int]], where: str) -> tuple[type, str, int]:
    errors = []
    for base, skip in bases:
        try:
            return *resolve_class(name, base, where), skip
        except ConfigurationError as error:
            errors.append(error)
    raise errors[0]


def _parameters(target: type) -> dict[str, _Parameter]:
    """Return the parameters of a class by name, those behind ``**kwargs`` included."""
    from torch import nn

    parameters: dict[str, _Parameter] = {}
    for owner in target.__mro__:
        if owner in (object, nn.Module):  # nn.Module's (*args, **kwargs) take nothing
            break
        if "__init__" not in vars(owner):
            continue
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]
        hints = _hints(owner.__init__)  # type: ignore[misc]
        for name, parameter in list(signature.parameters.items())[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                entry = _Parameter(hints.get(name, parameter.annotation), parameter.default)
                parameters.setdefault(name, entry)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
            return parameters
    return {**_found_in_source(target), **parameters}


def _found_in_source(target: type) -> dict[str, _Parameter]:
    """Return the parameters of what a class passes its ``**kwargs`` to, which jsonargparse reads from the source."""
    from jsonargparse import ArgumentParser

    names = ArgumentParser(exit_on_error=False).add_class_arguments(target, fail_untyped=False)
    return {name.partition(".")[0]: _Parameter(Any) for name in names}


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):  # names imported under TYPE_CHECKING only; such parameters go unresolved
        return {}


def _bases(annotation: Any) -> list[tuple[type, int]]:
    """Return the classes with a slot in an annotation, each with the number of arguments that its caller gives."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is collections.abc.Callable and len(arguments) == 2:
        given = len(arguments[0]) if isinstance(arguments[0], list) else 0
        return [(base, given) for base, _ in _bases(arguments[1])]
    if origin in (typing.Union, types.UnionType, *_LISTS):
        return [base for argument in arguments for base in _bases(argument)]
    if isinstance(annotation, type) and annotation not in (object, type(None)) and slot_of(annotation):
        return [(annotation, 0)]
    return []


def _takes_text(annotation: Any) -> bool:
    return annotation is str or any(_takes_text(argument) for argument in typing.get_args(annotation))


def _takes_only_lists(annotation: Any) -> bool:
    kinds = [each for each in _alternatives(annotation) if each is not type(None)]
    return all(typing.get_origin(each) in _LISTS for each in kinds)


def _of_entries(annotation: Any) -> Any:
    """Return what the entries of a list are annotated with."""
    lists = (each for each in _alternatives(annotation) if typing.get_origin(each) in _LISTS)
    return next((typing.get_args(each)[0] for each in lists), annotation)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _takes_mapping(annotation: Any) -> bool:
    if annotation is dict or typing.get_origin(annotation) in (dict, collections.abc.Mapping):
        return True
    return any(_takes_mapping(argument) for argument in typing.get_args(annotation))


def _must_be_mapping(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} must be a mapping of arguments, got {value!r}")
