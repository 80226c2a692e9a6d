"""The contract of a fine-tuning strategy: which parameters of a backbone learn, when, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

__all__ = ["FineTuning", "ParameterGroup", "freeze"]


def freeze(module: nn.Module) -> None:
    """Take the gradient of every parameter below ``module`` away, also of those whose shape is not known yet."""
    for parameter in module.parameters():
        parameter.requires_grad = False  # requires_grad_() refuses a lazy layer's


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn alike: a group of the one optimizer.

    Attributes:
        name: The name of the optimizer's group, which logs of learning rates show.
        parameters: The parameters; each in one group only.
        lr_scale: Factor on the learning rate.
        start: Training progress in [0, 1] at which the group begins to learn; its learning rate is 0 before.
        modules: What owns the parameters. Until ``start`` these modules stay in evaluation mode: no dropout, no change
            of batch-norm statistics.

    Example:
        >>> layer = nn.Linear(4, 3)
        >>> ParameterGroup("backbone.last", list(layer.parameters()), lr_scale=0.1, modules=[layer]).start
        0.0
    """

    name: str
    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    start: float = 0.0
    modules: Sequence[nn.Module] = ()


class FineTuning:
    """How the backbone is fine-tuned; this one trains all of it from the start.

    A strategy never makes parameters trainable later: DistributedDataParallel would not synchronise them, and a resumed
    run would not know. Either they never learn (``prepare`` takes their ``requires_grad`` away), or their group's
    learning rate is 0 until its ``start``, which is a pure function of training progress.

    Args:
        freeze_batch_norm: Keep the backbone's batch-norm statistics as they came, and use them while training too.

    Attributes:
        trains_batch_norm: Whether anything of the backbone's batch normalisation learns, statistics or scale and shift.

    Example:
        >>> backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> strategy = FineTuning(freeze_batch_norm=True)
        >>> [(group.name, len(group.parameters)) for group in strategy.groups(backbone)]
        [('backbone', 4)]
        >>> strategy.hold(backbone.train(), strategy.groups(backbone), progress=0.5)
        >>> backbone[1].training
        False
    """

    trains_batch_norm = True
    _found: tuple[nn.Module, Sequence[ParameterGroup], Sequence[nn.Module]] | None = None

    def __init__(self, freeze_batch_norm: bool = False) -> None:
        self.freeze_batch_norm = freeze_batch_norm

    def prepare(self, backbone: nn.Module) -> None:
        """Freeze or extend the backbone in place. Called once, on every rank with the same random state."""

    def groups(self, backbone: nn.Module) -> list[ParameterGroup]:
        """Return the trainable parameters of the backbone in groups, those nearest to the input first."""
        parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        return [ParameterGroup("backbone", parameters)] if parameters else []

    def hold(self, backbone: nn.Module, groups: Sequence[ParameterGroup], progress: float) -> None:
        """Put what does not learn yet, and batch normalisation if it is frozen, into evaluation mode.

        Called before every training step, after the trainer has put the whole model into training mode.
        """
        for group in groups:
            for module in group.modules:
                if module.training != (progress >= group.start):  # every step; most change nothing
                    module.train(not module.training)
        if self.freeze_batch_norm:
            for module in self._batch_norms(backbone, groups):
                if module.training:
                    module.train(False)

    def _batch_norms(self, backbone: nn.Module, groups: Sequence[ParameterGroup]) -> Sequence[nn.Module]:
        # A walk through a ResNet-50 takes half a millisecond, and this is asked every step. What replaces modules (by
        # domain, over ranks, adapters) does so before the optimizer is made, and groups are made with it.
        if self._found is None or self._found[0] is not backbone or self._found[1] is not groups:
            kind = nn.modules.batchnorm._BatchNorm
            self._found = backbone, groups, [each for each in backbone.modules() if isinstance(each, kind)]
        return self._found[2]

    def release(self, groups: Sequence[ParameterGroup], progress: float) -> None:
        """Take away the gradients of what does not learn yet. Called before every optimizer step.

        A learning rate of 0 is not enough: an optimizer would gather momentum from gradients that it does not follow,
        and let go of it all at once at the group's start; and the norm that clips would count them.
        """
        for group in groups:
            if progress < group.start:
                for parameter in group.parameters:
                    parameter.grad = None
