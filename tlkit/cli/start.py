"""``tlkit fit --start_from``: a training that starts from the model of another run."""

from __future__ import annotations

from tlkit.cli.rebuild import checkpoint_file, load
from tlkit.cli.runfolder import run_of
from tlkit.cli.shell import TransferCLI
from tlkit.cli.unseen import Unseen
from tlkit.errors import CheckpointError
from tlkit.module import TransferModule
from tlkit.notes import say
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
    assert trained.data_spec is not None
    cli.datamodule.start = trained.data_spec
    unseen = Unseen(run_of(file), trained.recipe, cli.resolved)
    _say_what_differs(cli, unseen, trained)
    return unseen


def _say_what_differs(cli: TransferCLI, unseen: Unseen, trained: TransferModule) -> None:
    assert trained.recipe is not None
    assert trained.data_spec is not None
    backbones = (recipe["model"]["backbone"].get("init_args") or {} for recipe in (trained.recipe, cli.resolved))
    old, new = ({key: value for key, value in each.items() if key != "pretrained"} for each in backbones)
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            say(f"--start_from: model.backbone.{key} was {old.get(key)!r} in {unseen.run} and is {new.get(key)!r} now")
    unseen.say_if_unchecked("--start_from", "a row to test on")
    late = [domain for domain in cli.datamodule.eval_domains if domain not in trained.data_spec.domains]
    if late and cli.datamodule.shared_groups and not unseen.differ:
        say(
            f"--start_from: {', '.join(late)} had no part in {unseen.run}: groups (persons, patients, places) that it "
            "learned from may be among the test rows there. It leaves them out if it has these domains in also_test"
        )
