import math

import pytest

from tlkit.schedules import Constant, DannRamp, InverseDecay, Linear, Schedule


def test_dann_ramp_is_the_papers_formula_and_ends_at_one():
    for p in (0.0, 0.03, 0.5, 0.77, 1.0):
        assert DannRamp()(p) == pytest.approx(2 / (1 + math.exp(-10 * p)) - 1, abs=1e-12)
    assert DannRamp()(0) == 0
    assert DannRamp()(1) == pytest.approx(1, abs=1e-4)  # not 0.462, where a copy with the wrong progress ends
    assert DannRamp(high=3, gamma=1)(1) == pytest.approx(3 * math.tanh(0.5))


def test_linear_holds_its_end():
    assert [Linear(1, 3, over=0.25)(p) for p in (0, 0.125, 0.25, 0.9)] == [1, 2, 3, 3]


def test_constant_and_refusals():
    assert Constant(0.3)(0.1) == Constant(0.3)(1) == 0.3
    with pytest.raises(ValueError, match=r"over=.*\(0, 1\], got 0"):
        Linear(over=0)
    with pytest.raises(ValueError, match="gamma"):
        DannRamp(gamma=-1)
    with pytest.raises(TypeError, match="must define __call__"):
        Schedule()(0.5)


def test_inverse_decay_is_the_learning_rate_of_dann_and_of_the_libraries_that_count_steps():
    assert InverseDecay()(0.37) == pytest.approx(1 / (1 + 10 * 0.37) ** 0.75)
    steps = 20_000
    for step in (0, 500, steps):
        assert InverseDecay(gamma=steps / 1000)(step / steps) == pytest.approx((1 + 0.001 * step) ** -0.75)
    with pytest.raises(ValueError, match="got -1 and"):
        InverseDecay(gamma=-1)
