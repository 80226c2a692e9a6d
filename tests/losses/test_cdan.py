"""CDAN against the outer product written out, and what its projection must survive."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tests.losses.settings import encoded
from tlkit.errors import ConfigurationError
from tlkit.losses import BNM, CDAN, DANN, MCC
from tlkit.losses.base import AdaptationLoss
from tlkit.tasks import Classification


def build(loss: AdaptationLoss, features: int, classes: int) -> AdaptationLoss:
    torch.manual_seed(0)
    loss.build(SimpleNamespace(num_features=features, num_probabilities=classes, task=Classification()))
    return loss


def test_the_discriminator_sees_features_times_softmax_not_logits() -> None:
    loss = build(CDAN(hidden_size=4), 2, 2)
    side = encoded(torch.tensor([[1.0, 2.0]]), torch.tensor([[math.log(3.0), 0.0]]))  # softmax (3/4, 1/4)
    torch.testing.assert_close(loss.inputs(side), torch.tensor([[0.75, 0.25, 1.5, 0.5]]))


def test_predictions_condition_and_are_not_trained() -> None:
    for entropy in (False, True):
        loss = build(CDAN(hidden_size=4, entropy=entropy), 3, 2)
        loss.progress = 1.0
        features, outputs = torch.randn(6, 3).requires_grad_(), torch.randn(6, 2).requires_grad_()
        loss(encoded(features, outputs), encoded(features + 1, outputs))["loss"].backward()
        assert features.grad is not None
        assert features.grad.norm() > 0
        assert outputs.grad is None


def test_a_projection_to_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"CDAN\(random_size=...\) must be at least 1, or None, got 0"):
        CDAN(random_size=0)


def test_entropy_weights_by_hand() -> None:
    loss = build(CDAN(hidden_size=4, entropy=True), 3, 2)
    side = encoded(torch.zeros(2, 3), torch.tensor([[100.0, 0.0], [0.0, 0.0]]))  # entropies 0 and log 2
    expected = torch.tensor([2.0, 1.5]) / 1.75
    torch.testing.assert_close(loss.row_weights(side), expected)
    assert build(CDAN(hidden_size=4), 3, 2).row_weights(side) is None


def test_without_a_random_size_the_product_is_never_projected() -> None:
    loss = build(CDAN(hidden_size=4, random_size=None), 256, 31)
    assert loss.discriminator[0].in_features == 256 * 31
    assert loss.project_features is None
    side = encoded(torch.randn(2, 256), torch.randn(2, 31))
    assert loss.inputs(side)[1, 40].item() == pytest.approx(
        (side.features[1, 1] * side.outputs[1].softmax(0)[9]).item()
    )


def test_wide_products_are_projected_and_the_projection_is_saved() -> None:
    loss = build(CDAN(hidden_size=4, random_size=4000), 600, 7)
    assert loss.discriminator[0].in_features == 4000
    side = encoded(torch.randn(5, 600), torch.randn(5, 7))
    other = encoded(torch.randn(5, 600), torch.randn(5, 7))
    product = (side.features[:, :, None] * side.outputs.softmax(1)[:, None, :]).flatten(1)
    other_product = (other.features[:, :, None] * other.outputs.softmax(1)[:, None, :]).flatten(1)
    # The projection keeps inner products on average: E <z, z'> = <f, f'> <p, p'>.
    exact, projected = product @ other_product.T, loss.inputs(side) @ loss.inputs(other).T
    assert (exact - projected).abs().mean() < 0.1 * product.norm(dim=1).mean() * other_product.norm(dim=1).mean()
    torch.manual_seed(99)
    fresh = CDAN(hidden_size=4, random_size=4000)
    fresh.build(SimpleNamespace(num_features=600, num_probabilities=7, task=Classification()))
    assert not torch.equal(fresh.inputs(side), loss.inputs(side))
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.inputs(side), loss.inputs(side))


def test_with_one_certain_class_it_is_dann_on_the_features() -> None:
    cdan, dann = build(CDAN(hidden_size=5), 3, 2), build(DANN(hidden_size=5), 3, 2)
    certain = torch.tensor([[200.0, 0.0]]).repeat(6, 1)
    with torch.no_grad():
        for ours, theirs in zip(cdan.discriminator.parameters(), dann.discriminator.parameters(), strict=True):
            theirs.copy_(ours[:, ::2] if ours.shape != theirs.shape else ours)
    source, target = encoded(torch.randn(6, 3), certain), encoded(torch.randn(6, 3), certain)
    torch.testing.assert_close(cdan(source, target)["loss"], dann(source, target)["loss"])


@pytest.mark.parametrize("loss", [MCC(), BNM()], ids=["mcc", "bnm"])
def test_losses_of_the_target_alone_do_without_a_source(loss: AdaptationLoss) -> None:
    build(loss, 3, 4)
    assert not loss.needs_source
    target = encoded(torch.randn(6, 3), torch.randn(6, 4))
    torch.testing.assert_close(loss(None, target), loss(target, target))
