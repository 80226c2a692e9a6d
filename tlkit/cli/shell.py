"""The shell over LightningCLI: a checked recipe in, the built parts out."""

from __future__ import annotations

import logging
import re
import warnings
from functools import cached_property
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from tlkit.cli.check import LOGGERS, check_recipe
from tlkit.cli.launch import trainer_settings
from tlkit.cli.options import KEYS
from tlkit.data import DomainDataModule
from tlkit.data.checks import roles
from tlkit.errors import ConfigurationError, TlkitError
from tlkit.module import TransferModule

__all__ = ["TransferCLI", "global_rank", "quiet"]


class TransferCLI(LightningCLI):
    """Check a recipe and build its parts.

    LightningCLI brings the parser with all options of the trainer and the instantiation. The trainer is made later, by
    :meth:`make_trainer`, when the run has a folder.

    Args:
        recipe: A recipe as :mod:`tlkit.cli.request` reads it.

    Raises:
        ConfigurationError: If a name is unknown, a value has the wrong type, or a part refuses it.
    """

    def __init__(self, recipe: dict[str, Any]) -> None:
        super().__init__(
            TransferModule,
            DomainDataModule,
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "prog": "tlkit fit"},
            subclass_mode_data=True,
            args=check_recipe(recipe),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The recipe with every default filled in, in plain types; for reading, as the checkpoints hold it too."""
        return self._plain(self.config)

    def resolve(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """Return the ``model`` and ``data`` that a checkpoint holds with every default of now filled in.

        Raises:
            ConfigurationError: If they no longer fit the classes that they name.
        """
        try:
            resolved = self._plain(self.parser.parse_object({key: recipe[key] for key in ("model", "data")}))
        except (ArgumentError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the recipe in the checkpoint does not fit this code: {_readable(error)}"
            ) from error
        return {key: resolved[key] for key in ("model", "data")}

    def _plain(self, config: Any) -> dict[str, Any]:
        resolved = yaml.safe_load(self.parser.dump(config, skip_unset=False, skip_link_targets=False))
        return {key: resolved[key] for key in KEYS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe's keys that are tlkit's own."""
        parser.add_argument("--logger", choices=LOGGERS, default="none", help="where metrics go beside metrics.csv")
        parser.add_argument(
            "--start_from",
            type=str | None,
            default=None,
            help="run folder or checkpoint whose weights training starts from",
        )
        parser.add_argument("--runs", type=str, default="runs", help="root folder of the runs")
        parser.add_argument("--run_id", type=str | None, default=None, help="name of the run's folder")
        parser.add_argument("--recipe", type=str | None, default=None, help="folder of the run under the root")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the recipe, with errors in words."""
        assert isinstance(args, dict)
        try:
            self.config = parser.parse_object(args)
        except (ArgumentError, TypeError, ValueError) as error:
            raise ConfigurationError(_readable(error)) from error

    def instantiate_classes(self) -> None:
        """Build data and model; ``self.trainer`` has to wait for :meth:`make_trainer`."""
        try:
            self.config_init = self.parser.instantiate(self.config)
        except TlkitError:
            raise
        except ValueError as error:
            raise ConfigurationError(_readable(error)) from error
        self.datamodule: DomainDataModule = self.config_init["data"]
        roles(self.datamodule)  # one of the user's own may have none
        self.model: TransferModule = self.config_init["model"]
        try:
            self.model.optimizer([nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:  # found now, not after the data have been read
            raise ConfigurationError(f"model.optimizer: {error}") from error
        resolved = self.resolved
        self.model.recipe = {"model": resolved["model"], "data": resolved["data"]}

    def make_trainer(self, callbacks: list[Callback], **settings: Any) -> Trainer:
        """Make the trainer.

        Args:
            callbacks: Put behind the recipe's own; one whose class the recipe names already gives way to it, and the
                progress bar to any other, or to the wish for none.
            settings: Arguments of the trainer that go before the recipe's.

        Raises:
            ConfigurationError: If the trainer refuses its arguments, or other processes were started than they say.
        """
        config = {**self.config_init["trainer"], **settings}
        own = config.pop("callbacks") or []
        own = own if isinstance(own, list) else [own]
        if config["enable_checkpointing"] is False:  # an evaluation of a run whose recipe says what is kept
            own = [callback for callback in own if not isinstance(callback, Checkpoint)]
        added = [callback for callback in callbacks if not any(isinstance(each, type(callback)) for each in own)]
        if config["enable_progress_bar"] is False or any(isinstance(each, ProgressBar) for each in own):
            added = [callback for callback in added if not isinstance(callback, ProgressBar)]
        config |= trainer_settings(config)
        try:
            self.trainer = Trainer(callbacks=[*own, *added], **config)
        except (MisconfigurationException, TypeError, ValueError) as error:
            raise ConfigurationError(f"trainer: {error}") from error
        if str(config["precision"]) in ("16", "16-mixed") and self.trainer.precision != "16-mixed":
            raise ConfigurationError(  # Lightning takes another precision, with no more than a warning
                "trainer.precision: 16-mixed needs a GPU: set trainer.precision: bf16-mixed, or 32, on the CPU"
            )
        return self.trainer


def global_rank() -> int:
    """Return the rank of this process among all of the run; 0 before any other is started."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def quiet() -> None:
    """Silence what Lightning says about itself, so that what tlkit prints is the result."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r"The '\w+_dataloader' does not have many workers",
        r".*GPU available but not used",
        r"Checkpoint directory .* exists and is not empty",
        r"You have overridden .* in .* and have passed in a datamodule",
        r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
        # torchmetrics has gathered these over all ranks already.
        r"It is recommended to use `self\.log\('(?:val|oracle|selection|test)/.*sync_dist=True",
        r"The `srun` command is available on your system but is not used",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        r"You passed `Trainer\(accelerator='cpu', precision='16-mixed'\)`",  # it is refused in words
        r"FSDP2-wrapped module .* returned a view tensor",  # nothing changes features in place
    ):
        warnings.filterwarnings("ignore", message=message)


def _readable(error: BaseException) -> str:
    """Return what is wrong, out of a report that goes through every type that a value could have had."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TlkitError):
            return str(cause)
        cause = cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line[2:] for line in lines if line.startswith("- ") and not _BY_THE_WAY.match(line)]
    return "; ".join(reasons) or " ".join(lines)


_BY_THE_WAY = re.compile(r"- (?:Expected a|Does not validate|Problem with given class_path)")
