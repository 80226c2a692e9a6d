"""Adaptation losses, one paper a file."""

from tlkit.losses.base import AdaptationLoss
from tlkit.losses.coral import CORAL
from tlkit.losses.dann import DANN
from tlkit.losses.mmd import MMD

__all__ = ["CORAL", "DANN", "MMD", "AdaptationLoss"]
