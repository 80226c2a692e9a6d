from __future__ import annotations

import pytest
import torch

from tlkit.functional.samples import autocast_off, full_precision, gram_matrix, two_samples


@pytest.mark.parametrize(("n", "m"), [(1, 4), (3, 3), (5, 2)])
def test_gram_matrix(n: int, m: int) -> None:
    rows = torch.randn(n + m, 7, dtype=torch.float64)
    gram = gram_matrix(rows, n)
    torch.testing.assert_close(gram, rows @ rows.T)
    assert torch.equal(gram[n:, :n], gram[:n, n:].T)


def test_precision_is_raised_and_the_wider_type_wins() -> None:
    assert full_precision(torch.ones(1, dtype=torch.float16)).dtype == torch.float32
    x = torch.ones(1, dtype=torch.float64)
    assert full_precision(x) is x
    half, double = torch.ones(2, 2, dtype=torch.float16), torch.ones(2, 2, dtype=torch.float64)
    assert {side.dtype for side in two_samples(half, double, "f", 1)} == {torch.float64}
    assert {side.dtype for side in two_samples(half, half.bfloat16(), "f", 1)} == {torch.float32}


def test_autocast_is_off_inside_and_on_again_after() -> None:
    x = torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with autocast_off(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
