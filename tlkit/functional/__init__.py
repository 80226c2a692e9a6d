"""The mathematics of adaptation as pure functions of tensors: no state, no Lightning."""

from tlkit.functional.coral import coral
from tlkit.functional.mmd import mmd
from tlkit.functional.reversal import gradient_reversal

__all__ = ["coral", "gradient_reversal", "mmd"]
