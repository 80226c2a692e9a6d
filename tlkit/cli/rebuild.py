"""A trained model again, from what its run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

from tlkit.backbones.pretrained import skip_pretrained
from tlkit.cli.check import check_model
from tlkit.errors import CheckpointError, ConfigurationError, TlkitError
from tlkit.module import TransferModule
from tlkit.types import DataSpec

__all__ = ["checkpoint_file", "load", "read_checkpoint"]


# What every checkpoint has that a trainer wrote.
_ENTRIES: dict[str, type] = {"tlkit": dict, "state_dict": dict, "global_step": int, "epoch": int, "loops": dict}


def load(path: str | Path) -> TransferModule:
    """Build a trained model again and load its weights.

    Pretrained weights are not looked for, the checkpoint has them all. Of a
    :class:`~tlkit.backbones.TransformersBackbone` the ``config.json`` must still be there: in its folder or package, or
    in the cache of the hub, as its tokenizer must.

    Args:
        path: A run folder, whose ``checkpoints/best.ckpt`` is taken, or a checkpoint.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        CheckpointError: If there is no checkpoint, it cannot be read, it was not written by a recipe's run, or a part
            of its model cannot be built here.
    """
    file = checkpoint_file(path)
    checkpoint = read_checkpoint(file)
    stored = checkpoint["tlkit"]
    if stored.get("recipe") is None or stored.get("data") is None:
        raise CheckpointError(
            f"{file} holds weights but no recipe, since it was trained from Python: make the same TransferModule, call "
            "its build(data), and load_state_dict(torch.load(file, weights_only=True)['state_dict']); another training "
            "starts from that by tlkit.start_from(model, trained)"
        )
    try:
        with skip_pretrained():
            model = _build(stored["recipe"]["model"])
    except (TlkitError, OSError) as error:
        raise CheckpointError(
            f"the model of {file} cannot be built here: {error} (All weights are in the checkpoint: what is missing is "
            "needed for the model's code or shape alone, and must be where it was when the model was trained.)"
        ) from error
    model.recipe = stored["recipe"]
    model.build(DataSpec.from_checkpoint(stored["data"]))
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def checkpoint_file(path: str | Path) -> Path:
    """Return the checkpoint that a run's folder or a file's path names.

    Raises:
        CheckpointError: If there is none.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "checkpoints" / "best.ckpt"
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {file}; give a run folder or a .ckpt file")
    return file


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint of tlkit onto the CPU without running any code that it might hold.

    Raises:
        CheckpointError: If it cannot be read, or tlkit did not write it.
    """
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises on damaged files is written down nowhere
        raise CheckpointError(
            f"{file} cannot be read: it is not a checkpoint, is damaged, or holds Python objects, which are not loaded "
            "since they could run any code"
        ) from error
    if not isinstance(checkpoint, dict) or "tlkit" not in checkpoint or "state_dict" not in checkpoint:
        raise CheckpointError(f"{file} was not written by tlkit: it has no entry 'tlkit'")
    for entry, kind in _ENTRIES.items():
        if not isinstance(checkpoint.get(entry), kind):
            came = type(checkpoint[entry]).__name__ if entry in checkpoint else "none"
            raise CheckpointError(f"{file} is damaged: its entry {entry!r} should be a {kind.__name__}, got {came}")
    return checkpoint


def _build(recipe: dict[str, Any]) -> TransferModule:
    # The recipe comes from a file that may be anyone's: check_model refuses a class outside its slot, unbuilt.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TransferModule, "model")
    try:
        config = parser.parse_object({"model": check_model(recipe)})
        model: TransferModule = parser.instantiate(config)["model"]
    except (ArgumentError, TypeError) as error:
        raise ConfigurationError(str(error)) from error
    return model
