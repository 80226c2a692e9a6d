"""LoRA: small trainable matrices beside frozen ones."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from tlkit.batchnorm import DomainBatchNorm
from tlkit.errors import ConfigurationError, unknown
from tlkit.finetuning.base import FineTuning, ParameterGroup, freeze

__all__ = ["LoRA"]

# Where the paper puts adapters: attention's query and value. Models that compute them in one layer have that one, and
# the projection after it. The first entry whose endings all occur in a backbone is taken.
_ATTENTION = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_lin", "v_lin"),
    ("q_proj", "v_proj"),
    ("attn.qkv", "attn.proj"),
    ("Wqkv",),
)
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoRA(FineTuning):
    r"""Frozen weights with trainable updates of low rank beside them (Hu et al., ICLR 2022), by the package peft.

    A layer with the weight :math:`W` computes :math:`W x + \frac{\alpha}{r} B A x`, where only :math:`A` and :math:`B`
    learn; :math:`B` begins at 0, so that training begins at the network as it came. Batch-norm statistics stay as they
    came, as they belong to the frozen weights; dropout is active. Adaptation losses act on the adapters and the head.

    Needs the extra ``lora``: ``pip install "tlkit[lora]"``.

    Args:
        rank: Rank :math:`r` of the updates.
        alpha: Scale of the updates; doubling it is much like doubling their learning rate.
        dropout: Share of the adapters' inputs dropped while training, in [0, 1).
        target_modules: Which linear and convolutional layers get an adapter, by their name in the timm or transformers
            model (in the backbone itself, if it is no such model):

            - ``None``: query and value of the attention in BERT and its relatives, ``qkv`` and ``proj`` in timm's
              vision transformers; other backbones have no default;
            - a list of endings: ``[query, value]``;
            - ``"all-linear"``: every linear layer;
            - another text: a regular expression for the whole name, ``".*conv_pwl?"``.

    Raises:
        ConfigurationError: If peft is not installed, an argument is out of its range, or ``target_modules`` names
            nothing, or a layer that cannot be adapted.

    Example:
        >>> backbone = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
        >>> strategy = LoRA(rank=2, target_modules=["0"])
        >>> strategy.prepare(backbone)
        >>> [tuple(parameter.shape) for parameter in strategy.groups(backbone)[0].parameters]
        [(2, 8), (6, 2)]
        >>> LoRA.merged(backbone)
        Sequential(
          (0): Linear(in_features=8, out_features=6, bias=True)
          (1): Tanh()
          (2): Linear(in_features=6, out_features=4, bias=True)
        )
    """

    trains_batch_norm = False

    def __init__(
        self,
        rank: int = 8,
        alpha: int = 16,
        dropout: float = 0.0,
        target_modules: str | list[str] | None = None,
    ) -> None:
        super().__init__(freeze_batch_norm=True)
        if rank < 1:
            raise ConfigurationError(f"LoRA(rank=...) must be at least 1, got {rank}")
        if alpha <= 0:
            raise ConfigurationError(f"LoRA(alpha=...) must be positive, got {alpha}")
        if not 0 <= dropout < 1:
            raise ConfigurationError(f"LoRA(dropout=...) must be in [0, 1), got {dropout}")
        if isinstance(target_modules, list) and not target_modules:
            raise ConfigurationError(
                "LoRA(target_modules=...) is an empty list, so that nothing would learn but the head: name endings of "
                "layers, such as [query, value], leave it out for the usual ones, or choose LinearProbe"
            )
        self.rank, self.alpha, self.dropout, self.target_modules = rank, alpha, dropout, target_modules

    def prepare(self, backbone: nn.Module) -> None:
        """Freeze the backbone and put the adapters in."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigurationError('LoRA needs peft, which is not installed: pip install "tlkit[lora]"') from error
        model = getattr(backbone, "model", None)
        inside = model if isinstance(model, nn.Module) else backbone
        names = self._targets(inside, type(backbone).__name__)
        freeze(backbone)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="|".join(map(re.escape, names)),  # peft would take a list for endings
        )
        inject_adapter_in_model(config, inside)

    def release(self, groups: Sequence[ParameterGroup], progress: float) -> None:
        """Check before every optimizer step that each adapter has a gradient.

        Raises:
            ConfigurationError: If one has none: the backbone then reads the weight of the layer without calling it.
        """
        if any(parameter.grad is None for group in groups for parameter in group.parameters):
            raise ConfigurationError(
                "finetuning: LoRA put an adapter into a layer that the backbone never calls (some models read the "
                "weight and multiply themselves), so that it cannot learn: name other layers in target_modules"
            )

    @staticmethod
    def merged(backbone: nn.Module) -> nn.Module:
        """Return a copy of the backbone with the updates added to the weights and the adapters gone.

        It computes the same features in evaluation mode, has the names and shapes of the backbone before
        :meth:`prepare`, and needs no peft. Of batch normalisation by domain it has the targets' layers.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        merged = copy.deepcopy(backbone)
        DomainBatchNorm.restore(merged)
        for name, layer in list(merged.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(merged.get_submodule(parent), child, layer.get_base_layer())
        vars(getattr(merged, "model", merged)).pop("peft_config", None)
        return merged

    def _targets(self, inside: nn.Module, backbone: str) -> list[str]:
        """Return the names of the layers that get an adapter."""
        layers = {name: module for name, module in inside.named_modules() if isinstance(module, _KINDS)}
        able = [name for name, module in layers.items() if _able(module)]
        lazy = [name for name, module in layers.items() if _able_later(module)]
        if not able and not lazy:
            own = ", ".join(sorted({type(module).__name__ for module in layers.values()}))
            raise ConfigurationError(
                f"finetuning: LoRA adapts linear layers and convolutions, and {backbone} has none that it could"
                f"{f' ({own}: computed in a way of its own)' if own else ''}: use Full, LayerDecay or GradualUnfreezing"
            )
        endings = sorted({name.rpartition(".")[2] for name in able})
        choice = f"set target_modules to a list of endings or to a pattern; layers of it end in {', '.join(endings)}"
        chosen = self._named(layers, backbone, choice) if able else lazy
        if early := [name for name in chosen if name in lazy]:
            raise ConfigurationError(
                f"finetuning: LoRA cannot adapt {early[0]} of {backbone}, whose shape is not known before the first "
                "batch: give the backbone the width of its inputs (in_features or in_channels)"
                f"{f', or {choice}' if able else ''}"
            )
        if refused := [name for name in chosen if name not in able]:
            raise ConfigurationError(
                f"finetuning: LoRA cannot adapt {', '.join(refused[:3])} of {backbone}, a convolution in groups or a "
                f"layer that computes in a way of its own ({type(layers[refused[0]]).__name__}): {choice}"
            )
        return chosen

    def _named(self, layers: Iterable[str], backbone: str, choice: str) -> list[str]:
        wanted = self.target_modules
        if wanted is None:
            known = (pair for pair in _ATTENTION if all(_ending(layers, [ending]) for ending in pair))
            wanted = list(next(known, ()))
            if not wanted:
                raise ConfigurationError(f"finetuning: LoRA knows no usual place for adapters in {backbone}: {choice}")
        if isinstance(wanted, list):
            for ending in wanted:
                if not _ending(layers, [ending]):
                    every = {name.rpartition(".")[2] for name in layers}
                    raise ConfigurationError(f"LoRA(target_modules=...): {unknown('ending', ending, every)}")
            return _ending(layers, wanted)
        return self._matching(wanted, layers, backbone, choice)

    def _matching(self, pattern: str, layers: Any, backbone: str, choice: str) -> list[str]:
        if pattern == "all-linear":
            chosen = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
            if not chosen:
                raise ConfigurationError(f"finetuning: {backbone} has no linear layer for 'all-linear': {choice}")
            return chosen
        try:
            chosen = [name for name in layers if re.fullmatch(pattern, name)]
        except re.error as error:
            raise ConfigurationError(
                f"LoRA(target_modules={pattern!r}) is no regular expression ({error}): {choice}"
            ) from error
        if not chosen:
            raise ConfigurationError(
                f"LoRA(target_modules={pattern!r}) is a pattern for the whole name of a layer, such as "
                f"{next(iter(layers))!r}, and fits none in {backbone}: {choice}"
            )
        return chosen


def _able(layer: nn.Module) -> bool:
    """Whether an adapter beside the layer computes what the layer's own weight could: an ordinary product."""
    # A subclass may pad or reshape in a forward of its own, or have its weight read by the module around it.
    return type(layer) in _KINDS and getattr(layer, "groups", 1) == 1


def _able_later(layer: Any) -> bool:
    """Whether the layer waits for its first input, and an adapter could be put beside it then."""
    return (
        nn.parameter.is_lazy(layer.weight)
        and getattr(layer, "cls_to_become", None) in _KINDS
        and getattr(layer, "groups", 1) == 1
    )


def _ending(names: Iterable[str], endings: Sequence[str]) -> list[str]:
    return [name for name in names if any(f".{name}".endswith(f".{ending}") for ending in endings)]
