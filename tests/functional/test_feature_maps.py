import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.functional import feature_map_distance


def test_numpy_agrees_and_it_is_0_for_the_same_maps():
    maps, reference = torch.randn(3, 4, 5, 6, dtype=torch.float64), torch.randn(3, 4, 5, 6, dtype=torch.float64)
    rows = [((a - b) ** 2).sum() / a.size for a, b in zip(maps.numpy(), reference.numpy(), strict=True)]
    assert feature_map_distance(maps, reference).item() == pytest.approx(sum(rows) / 3, rel=1e-12)
    assert feature_map_distance(maps, maps) == 0


def test_a_mask_of_ones_is_no_mask():
    maps, reference = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    masked = feature_map_distance(maps, reference, torch.ones(3, 4))
    torch.testing.assert_close(masked, feature_map_distance(maps, reference), rtol=1e-12, atol=0)


def test_the_mask_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [9.0, 9.0]], [[2.0, 0.0], [0.0, 2.0]]])
    mask = torch.tensor([[1, 0], [1, 1]])
    # first row: (1 + 9) / 2 at its one position; second row: 2 at both
    assert feature_map_distance(maps, torch.zeros_like(maps), mask).item() == pytest.approx((5 + 2) / 2)


def test_shapes_that_differ():
    with pytest.raises(ConfigurationError, match=r"got \(2, 3\) and \(2, 4\)"):
        feature_map_distance(torch.rand(2, 3), torch.rand(2, 4))
    with pytest.raises(ConfigurationError, match="does not fit maps"):
        feature_map_distance(torch.rand(2, 3), torch.rand(2, 3), torch.ones(2, 3))
