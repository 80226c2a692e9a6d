"""``tlkit fit --start_from``: a training that starts from the model of another run."""

from __future__ import annotations

from tlkit.cli.rebuild import checkpoint_file, load
from tlkit.cli.shell import TransferCLI
from tlkit.cli.unseen import Unseen
from tlkit.errors import CheckpointError
from tlkit.start import start_from

__all__ = ["start"]


def start(cli: TransferCLI) -> Unseen:
    """Give the model of a command its first weights, and its data what the labels meant where they were learned.

    Args:
        cli: The parts of the command, not used yet; its ``start_from`` names a run's folder or a checkpoint.

    Returns:
        The callback that refuses to test on what that run learned from.

    Raises:
        CheckpointError: If there is no such checkpoint, it cannot be read, or its backbone is another.
    """
    try:
        file = checkpoint_file(cli.config["start_from"])
        trained = load(file)
        start_from(cli.model, trained)
    except CheckpointError as error:
        raise CheckpointError(f"--start_from: {str(error).removeprefix('start_from: ')}") from error
    cli.datamodule.start = trained.data_spec
    return Unseen(file.parent.parent, trained.recipe, cli.resolved)
