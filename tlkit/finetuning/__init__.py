"""Fine-tuning strategies: which parameters of a backbone learn, when, and how fast."""

from tlkit.finetuning.base import FineTuning, ParameterGroup
from tlkit.finetuning.full import Full, LinearProbe
from tlkit.finetuning.gradual import GradualUnfreezing
from tlkit.finetuning.layer_decay import LayerDecay
from tlkit.finetuning.layers import layers_of
from tlkit.finetuning.lora import LoRA
from tlkit.finetuning.optimization import make_optimizer

__all__ = [
    "FineTuning",
    "Full",
    "GradualUnfreezing",
    "LayerDecay",
    "LinearProbe",
    "LoRA",
    "ParameterGroup",
    "layers_of",
    "make_optimizer",
]
