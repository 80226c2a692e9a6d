"""Schedules: pure functions from training progress in [0, 1] to a weight.

Nothing here counts steps. Progress comes from the trainer, so a resumed run lands on the value it would have had.
"""

from __future__ import annotations

import math

from tlkit.errors import ContractError

__all__ = ["Constant", "DannRamp", "InverseDecay", "Linear", "Schedule"]


class Schedule:
    """The base class: ``schedule(progress) -> float``."""

    def __call__(self, progress: float) -> float:
        """Return the weight at ``progress``, a float in [0, 1]."""
        raise ContractError(f"{type(self).__name__} must define __call__(progress) -> float")


class Constant(Schedule):
    """The same weight throughout.

    Example:
        >>> Constant(0.5)(0.9)
        0.5
    """

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, progress: float) -> float:
        """Return ``value``."""
        return self.value


class Linear(Schedule):
    """From ``start`` to ``end`` in a straight line over the share ``over`` of the run, then ``end``.

    Example:
        >>> [Linear(0.0, 2.0, over=0.5)(p) for p in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 1.0, 2.0, 2.0]
    """

    def __init__(self, start: float = 0.0, end: float = 1.0, over: float = 1.0) -> None:
        if not 0 < over <= 1:
            raise ValueError(f"Linear(over=...) is a share of the run in (0, 1], got {over}")
        self.start, self.end, self.over = start, end, over

    def __call__(self, progress: float) -> float:
        """Return the weight on the line at ``progress``."""
        return self.start + (self.end - self.start) * min(progress / self.over, 1.0)


class DannRamp(Schedule):
    r"""The ramp of DANN (Ganin et al., JMLR 2016, section 5.2.2): ``high * (2 / (1 + exp(-gamma * p)) - 1)``.

    It starts at 0 and ends at ``high * tanh(gamma / 2)``, which is 0.9999 times ``high`` for the paper's gamma of 10.

    Example:
        >>> ramp = DannRamp()
        >>> [round(ramp(p), 3) for p in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.462, 0.987, 1.0]
    """

    def __init__(self, high: float = 1.0, gamma: float = 10.0) -> None:
        if gamma <= 0:
            raise ValueError(f"DannRamp(gamma=...) must be positive, got {gamma}")
        self.high, self.gamma = high, gamma

    def __call__(self, progress: float) -> float:
        """Return the weight on the ramp at ``progress``."""
        return self.high * (2.0 / (1.0 + math.exp(-self.gamma * progress)) - 1.0)


class InverseDecay(Schedule):
    r"""The fall of learning rates in domain adaptation: :math:`(1 + \gamma p)^{-\beta}`, from 1.

    With the defaults it is that of DANN (Ganin et al., JMLR 2016, section 5.2.2). Libraries that count steps ``i``
    write ``(1 + 0.001 i) ** -0.75``, which over N steps is ``gamma = N / 1000``.

    Example:
        >>> [round(InverseDecay()(p), 3) for p in (0.0, 0.1, 1.0)]
        [1.0, 0.595, 0.166]
    """

    def __init__(self, gamma: float = 10.0, power: float = 0.75) -> None:
        if gamma < 0 or power < 0:
            raise ValueError(f"InverseDecay(gamma=..., power=...) must be 0 or more, got {gamma} and {power}")
        self.gamma, self.power = gamma, power

    def __call__(self, progress: float) -> float:
        """Return the weight on the curve at ``progress``."""
        return float((1.0 + self.gamma * progress) ** -self.power)
