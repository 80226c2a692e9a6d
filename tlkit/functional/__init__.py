"""The mathematics of adaptation as pure functions of tensors: no state, no Lightning."""

from tlkit.functional.confusion import class_confusion
from tlkit.functional.coral import coral
from tlkit.functional.mmd import mmd
from tlkit.functional.nuclear import batch_nuclear_norm
from tlkit.functional.reversal import gradient_reversal

__all__ = ["batch_nuclear_norm", "class_confusion", "coral", "gradient_reversal", "mmd"]
