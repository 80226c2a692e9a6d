"""Adaptation losses, one paper a file."""

from tlkit.losses.base import AdaptationLoss
from tlkit.losses.bnm import BNM
from tlkit.losses.cdan import CDAN
from tlkit.losses.coral import CORAL
from tlkit.losses.dann import DANN
from tlkit.losses.mcc import MCC
from tlkit.losses.mmd import MMD

__all__ = ["BNM", "CDAN", "CORAL", "DANN", "MCC", "MMD", "AdaptationLoss"]
