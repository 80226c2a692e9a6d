"""Backbones: any module that maps ``x`` to features ``(B, num_features)``.

A backbone of your own needs no base class and no registration: an ``nn.Module`` with an integer ``num_features`` is
named in a recipe by its import path. timm and transformers are imported when a backbone of theirs is made.
"""

from tlkit.backbones.convnet import ConvNet
from tlkit.backbones.fingerprint import FingerprintNet
from tlkit.backbones.image import TimmBackbone
from tlkit.backbones.inception_time import InceptionTime
from tlkit.backbones.mlp import MLP
from tlkit.backbones.resnet1d import ResNet1d
from tlkit.backbones.series import CNN1d
from tlkit.backbones.text import TransformersBackbone

__all__ = [
    "MLP",
    "CNN1d",
    "ConvNet",
    "FingerprintNet",
    "InceptionTime",
    "ResNet1d",
    "TimmBackbone",
    "TransformersBackbone",
]
