"""Adaptation losses, one paper a file."""

from tlkit.losses.base import AdaptationLoss
from tlkit.losses.bnm import BNM
from tlkit.losses.bss import BSS
from tlkit.losses.cdan import CDAN
from tlkit.losses.coral import CORAL
from tlkit.losses.dann import DANN
from tlkit.losses.delta import DELTA
from tlkit.losses.hash_entropy import HashEntropy
from tlkit.losses.hash_pairwise import HashPairwise
from tlkit.losses.l2_sp import L2SP
from tlkit.losses.mcc import MCC
from tlkit.losses.mmd import MMD

__all__ = [
    "BNM",
    "BSS",
    "CDAN",
    "CORAL",
    "DANN",
    "DELTA",
    "L2SP",
    "MCC",
    "MMD",
    "AdaptationLoss",
    "HashEntropy",
    "HashPairwise",
]
