"""Training that starts from a model trained before."""

from __future__ import annotations

import copy

from tlkit.batchnorm import DomainBatchNorm
from tlkit.errors import ConfigurationError
from tlkit.finetuning import LoRA
from tlkit.module import TransferModule
from tlkit.network import check_weights

__all__ = ["start_from"]


def start_from(model: TransferModule, trained: TransferModule) -> None:
    """Give a model that is still to be trained the weights of a trained one.

    The backbone gets them now. Bottleneck and head get them when the model is built, if labels mean the same there and
    the task has the same layers; else they begin anew, and it is said why, or refused where nothing has labels to learn
    from. The losses' own layers begin anew. Adapters of :class:`~tlkit.finetuning.LoRA` are merged into the weights,
    and of batch normalisation by domain the targets' layers are taken.

    Where no domain of the new data has labels, what the classes are is to be said too: ``data.start =
    trained.data_spec``. The command does it.

    Args:
        model: A model that has not been built: before its first ``trainer.fit``.
        trained: The trained one, as :func:`tlkit.load` returns it. It stays as it is.

    Raises:
        ConfigurationError: If ``model`` is built, or ``trained`` is not.
        CheckpointError: If the backbones are not alike.

    Example:
        >>> import torch
        >>> from tlkit.backbones import MLP
        >>> from tlkit.losses import MCC
        >>> from tlkit.tasks import Classification
        >>> from tlkit.types import DataSpec
        >>> trained = TransferModule(MLP(4), Classification())
        >>> trained.build(DataSpec(("day",), ("day",), (), classes=("cat", "dog")))
        >>> model = TransferModule(MLP(4), Classification(), [MCC()])  # no source: what it knows is where it starts
        >>> start_from(model, trained)
        >>> model.build(DataSpec(("night",), (), ("night",), classes=("cat", "dog")))
        >>> all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))
        True
    """
    if model.data_spec is not None:
        raise ConfigurationError("start_from: the model is built already; call it before trainer.fit and model.build")
    if trained.data_spec is None:
        raise ConfigurationError("start_from: the model to start from is not built, so it was never trained")
    network = copy.deepcopy(trained.network).cpu()
    DomainBatchNorm.restore(network)
    if isinstance(trained.finetuning, LoRA):
        network.backbone = LoRA.merged(network.backbone)
    backbone, weights = model.network.backbone, network.backbone.state_dict()
    check_weights(
        weights,
        backbone.state_dict(keep_vars=True),  # lazy ones cannot be detached
        f"start_from: the backbone {type(backbone).__name__} is not that of the model to start from, a "
        f"{type(network.backbone).__name__}",
        "give it the arguments that it had there",
    )
    backbone.load_state_dict(weights)
    model.network.start = trained.data_spec, network
