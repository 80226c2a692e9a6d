"""Backbones: any module that maps ``x`` to features ``(B, num_features)``.

A backbone of your own needs no base class and no registration: an ``nn.Module`` with an integer ``num_features`` is
named in a recipe by its import path. timm and transformers are imported when a backbone of theirs is made.
"""

from tlkit.backbones.convnet import ConvNet
from tlkit.backbones.image import TimmBackbone
from tlkit.backbones.series import CNN1d
from tlkit.backbones.text import TransformersBackbone

__all__ = ["CNN1d", "ConvNet", "TimmBackbone", "TransformersBackbone"]
