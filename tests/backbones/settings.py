"""Every public backbone with the arguments and the input that test_all_backbones.py walks over."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.backbones import (
    MLP,
    CNN1d,
    ConvNet,
    FingerprintNet,
    InceptionTime,
    ResNet1d,
    TimmBackbone,
    TransformersBackbone,
)

Input = Tensor | dict[str, Tensor]


def images(channels: int, size: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(3, channels, size, size)


def windows(channels: int, length: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(3, channels, length)


def vectors(width: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(3, width)


def tokens() -> dict[str, Tensor]:
    """Three texts of 7, 4 and 1 tokens, padded."""
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    ids = torch.randint(1, 50, (3, 7)) * mask
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(ids)}


def tiny_bert(folder: str) -> str:
    """Write the configuration of a very small BERT into ``folder`` and return it."""
    from transformers import BertConfig

    BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Setting:
    """A backbone with its arguments, its input and the width that its features must have.

    Attributes:
        dropout: Whether two passes in training mode differ.
    """

    backbone: type[nn.Module]
    input: Callable[[], Input]
    num_features: int
    arguments: dict[str, Any] = field(default_factory=dict)
    dropout: bool = False

    def __str__(self) -> str:
        return "-".join([self.backbone.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])

    def make(self) -> nn.Module:
        """Build the backbone from a fixed seed."""
        torch.manual_seed(0)
        if self.backbone is TransformersBackbone:
            with tempfile.TemporaryDirectory() as folder:
                return TransformersBackbone(tiny_bert(folder), pretrained=False, **self.arguments)
        return self.backbone(**self.arguments)


SETTINGS = [
    Setting(ConvNet, images(1, 16), 512),
    Setting(ConvNet, images(3, 16), 24, {"in_channels": 3, "channels": (4, 6), "kernel_size": 3, "padding": 0}),
    Setting(ConvNet, images(1, 28), 20, {"image_size": 28, "channels": (4,), "batch_norm": True, "hidden": 20}),
    Setting(CNN1d, windows(9, 128), 128, {"in_channels": 9}, dropout=True),
    Setting(
        CNN1d, windows(1, 300), 24, {"in_channels": 1, "channels": (4, 6, 8), "stride": 6, "output_length": 3}, True
    ),
    Setting(FingerprintNet, vectors(20), 8, {"in_features": 20, "width": 8}, dropout=True),
    Setting(
        FingerprintNet,
        vectors(7),
        5,
        {"in_features": 7, "width": 5, "normalize": "count", "ap_threshold": 0.1},
        dropout=True,
    ),
    Setting(
        FingerprintNet,
        vectors(7),
        5,
        {"in_features": 7, "width": 5, "normalize": "length", "dropout": 0.0, "ap_dropout": 0.0, "noise": 0.0},
    ),
    Setting(ResNet1d, windows(6, 60), 8, {"in_channels": 6, "channels": (4, 8, 8)}),
    Setting(ResNet1d, windows(4, 30), 4, {"in_channels": 4, "channels": (4,), "dropout": 0.5}, dropout=True),
    Setting(InceptionTime, windows(3, 60), 16, {"in_channels": 3, "filters": 4, "bottleneck": 2}),
    Setting(
        InceptionTime,
        windows(1, 30),
        12,
        {"in_channels": 1, "filters": 4, "depth": 2, "kernel_sizes": (9, 4), "dropout": 0.5},
        dropout=True,
    ),
    Setting(TimmBackbone, images(3, 32), 1024, {"name": "mobilenetv3_small_050"}),
    Setting(TimmBackbone, images(1, 32), 96, {"name": "test_resnet", "in_chans": 1}),
    Setting(TimmBackbone, images(3, 32), 64, {"name": "test_vit", "model_args": {"img_size": 32}}),
    Setting(MLP, vectors(10), 6, {"in_features": 10, "hidden": (8, 6)}),
    Setting(MLP, vectors(10), 5, {"in_features": 10, "hidden": (5,), "dropout": 0.5, "batch_norm": True}, dropout=True),
    Setting(TransformersBackbone, tokens, 16, dropout=True),
    Setting(TransformersBackbone, tokens, 16, {"pooling": "cls"}, dropout=True),
]
