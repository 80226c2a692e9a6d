"""Fine-tuning strategies: which parameters of a backbone learn, when, and how fast."""

from tlkit.finetuning.base import FineTuning, ParameterGroup
from tlkit.finetuning.optimization import make_optimizer

__all__ = ["FineTuning", "ParameterGroup", "make_optimizer"]
