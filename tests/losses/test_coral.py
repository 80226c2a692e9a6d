from __future__ import annotations

import pytest
import torch

from tests.losses.settings import encoded
from tlkit import functional
from tlkit.errors import ConfigurationError
from tlkit.losses import CORAL, MMD


def test_on_outputs_leaves_the_features_alone() -> None:
    torch.manual_seed(0)
    f, g, p, q = torch.randn(4, 6), torch.randn(5, 6), torch.randn(4, 3), torch.randn(5, 3)
    source, target = encoded(f, p), encoded(g, q)
    assert torch.equal(CORAL(on="outputs")(source, target), functional.coral(p, q))
    assert torch.equal(CORAL()(source, target), functional.coral(f, g))


@pytest.mark.parametrize("loss", [CORAL, MMD])
def test_what_is_compared_has_one_of_two_names(loss) -> None:
    with pytest.raises(ConfigurationError, match=rf"{loss.__name__}\(on=...\): unknown part 'feature': did you mean"):
        loss(on="feature")


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"coral\(target=...\) needs at least 2 row\(s\), got 1"):
        CORAL()(encoded(torch.randn(4, 3)), encoded(torch.randn(1, 3)))
