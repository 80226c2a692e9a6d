"""What holds for every adaptation loss. A new loss only has to be listed in settings.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tlkit.losses
from tests.losses.settings import (
    CLASSES,
    OF_THE_NETWORK,
    SETTINGS,
    WIDTH,
    Setting,
    batch,
    encoded,
    network,
    value,
)
from tlkit.errors import ConfigurationError
from tlkit.losses import AdaptationLoss
from tlkit.network import Network
from tlkit.schedules import Linear
from tlkit.tasks import Hashing, PlaceRegression, Regression, Task
from tlkit.types import DataSpec, DomainBatch, Encoded, Samples

every_loss = pytest.mark.parametrize("setting", SETTINGS, ids=str)
every_loss_of_the_network = pytest.mark.parametrize("setting", OF_THE_NETWORK, ids=str)
HALF = [torch.bfloat16, torch.float16]


def sides(
    n: int = 6, m: int = 9, dtype: torch.dtype = torch.float32, requires_grad: bool = False
) -> tuple[Encoded, Encoded, list[Tensor]]:
    """Two samples of different sizes and distributions, and their four tensors."""
    generator = torch.Generator().manual_seed(1)

    def draw(rows: int, width: int, shift: float) -> Tensor:
        x = torch.randn(rows, width, generator=generator, dtype=torch.float64) * (1 + shift) + shift
        return x.to(dtype).requires_grad_(requires_grad)

    tensors = [draw(n, WIDTH, 0), draw(n, CLASSES, 0), draw(m, WIDTH, 0.5), draw(m, CLASSES, 0.5)]
    return encoded(*tensors[:2]), encoded(*tensors[2:]), tensors


def gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, tensors, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def test_every_public_loss_is_in_the_table() -> None:
    public = {getattr(tlkit.losses, name) for name in tlkit.losses.__all__} - {AdaptationLoss}
    assert public == {setting.loss for setting in [*SETTINGS, *OF_THE_NETWORK]}


@every_loss
def test_returns_a_scalar_or_a_dict_of_scalars_with_loss(setting: Setting) -> None:
    source, target, _ = sides()
    result = setting.make()(source, replace(target, y=None))
    values = result if isinstance(result, dict) else {"loss": result}
    assert "loss" in values
    assert all(isinstance(v, Tensor) and v.shape == () and v.isfinite() for v in values.values())
    assert not any(v.requires_grad for key, v in values.items() if key != "loss")


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.gradcheck is not None], ids=str)
def test_gradcheck_in_float64(setting: Setting) -> None:
    loss = setting.make(**(setting.gradcheck or {})).double()
    tensors = sides(4, 5, torch.float64, requires_grad=True)[2]
    if setting.detached_outputs:
        for outputs in tensors[1::2]:
            outputs.requires_grad_(False)
    assert torch.autograd.gradcheck(
        lambda a, b, c, d: value(loss, encoded(a, b), encoded(c, d)), tensors, eps=1e-6, atol=1e-7
    )


@every_loss
def test_the_gradient_reaches_both_sides(setting: Setting) -> None:
    source, target, tensors = sides(requires_grad=True)
    found = gradients(value(setting.make(), source, target), tensors)
    assert len(found) == (1 if setting.target_only or setting.source_only else 2)
    assert all(gradient.norm() > 1e-6 for gradient in found)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if not (s.target_only or s.source_only)], ids=str)
@pytest.mark.parametrize("frozen", [0, 1])
def test_the_gradient_of_one_side_alone_is_the_same(setting: Setting, frozen: int) -> None:
    loss = setting.make()
    source, target, tensors = sides(requires_grad=True)
    both = gradients(value(loss, source, target), tensors)
    for tensor in tensors[2 * frozen : 2 * frozen + 2]:
        tensor.requires_grad_(False)
    live = tensors[2 - 2 * frozen : 4 - 2 * frozen]
    (alone,) = gradients(value(loss, source, target), live)
    torch.testing.assert_close(alone, both[1 - frozen])


@every_loss
@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 7), (7, 2), (33, 8)])
def test_unequal_batches_are_finite(setting: Setting, n: int, m: int) -> None:
    source, target, tensors = sides(n, m, requires_grad=True)
    loss = value(setting.make(), source, target)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, tensors))


@every_loss
@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (0.1, 0.1), (1e4, 1e4), (0.1, 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_constant_features_are_finite(setting: Setting, a: float, b: float, dtype: torch.dtype) -> None:
    source, target, tensors = sides(requires_grad=True, dtype=dtype)
    with torch.no_grad():
        for tensor, constant in zip(tensors, (a, a, b, b), strict=True):
            tensor.fill_(constant)
    loss = setting.make()
    if dtype == torch.float64:
        loss = loss.double()
    result = value(loss, source, target)
    assert result.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(result, tensors))


@every_loss
def test_nan_is_not_hidden(setting: Setting) -> None:
    source, target, tensors = sides()
    for tensor in tensors:
        tensor[1, 0] = float("nan")
    assert value(setting.make(), source, target).isnan()


@every_loss
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_raised_to_float32(setting: Setting, dtype: torch.dtype) -> None:
    loss = setting.make()
    source, target, tensors = sides(dtype=dtype, requires_grad=True)
    result = value(loss, source, target)
    assert result.dtype == torch.float32
    found = gradients(result, tensors)
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in found)
    raised = [tensor.detach().float() for tensor in tensors]
    expected = value(loss, encoded(*raised[:2]), encoded(*raised[2:]))
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_autocast_changes_nothing_forward_or_backward(setting: Setting, dtype: torch.dtype) -> None:
    loss = setting.make()
    source, target, tensors = sides(requires_grad=True)
    plain = value(loss, source, target)
    expected = gradients(plain, tensors)
    with torch.autocast("cpu", dtype):
        cast = value(loss, source, target)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)
    for ours, theirs in zip(gradients(cast, tensors), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@every_loss
def test_float64_is_kept(setting: Setting) -> None:
    source, target, _ = sides(dtype=torch.float64)
    precise = value(setting.make().double(), source, target)
    assert precise.dtype == torch.float64
    source, target, _ = sides()
    torch.testing.assert_close(value(setting.make(), source, target).double(), precise, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.vanishes], ids=str)
def test_zero_for_identical_samples(setting: Setting) -> None:
    source, *_ = sides(8, dtype=torch.float64)
    assert value(setting.make(), source, source).abs() < 1e-14


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.symmetric], ids=str)
def test_source_and_target_may_be_swapped(setting: Setting) -> None:
    source, target, _ = sides(8, 8, dtype=torch.float64)
    loss = setting.make()
    torch.testing.assert_close(value(loss, source, target), value(loss, target, source), rtol=1e-12, atol=0)


@every_loss
def test_state_dict_round_trip(setting: Setting) -> None:
    source, target, _ = sides()
    loss = setting.make()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.3)
    fresh = setting.make()
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(value(fresh, source, target), value(loss, source, target))


@every_loss
def test_the_weight_is_a_number_or_a_schedule_and_scales_nothing_itself(setting: Setting) -> None:
    source, target, _ = sides()
    heavy, ramped = setting.make(weight=7), setting.make(weight=Linear(0.0, 2.0))
    assert heavy.weight(0.3) == 7.0
    assert ramped.weight(0.25) == 0.5
    assert torch.equal(value(heavy, source, target), value(ramped, source, target))


@pytest.mark.parametrize("loss", [tlkit.losses.HashPairwise, tlkit.losses.HashEntropy])
@pytest.mark.parametrize("task", [Regression(), PlaceRegression()])
def test_what_compares_classes_is_refused_where_labels_are_measured(loss: type[AdaptationLoss], task: Task) -> None:
    data = DataSpec(("a", "b"), ("a",), ("b",), quantities=("x_m", "y_m"), points=((0.0, 0.0), (0.0, 4.0)))
    message = f"{loss.__name__} compares classes, and the data of the task {type(task).__name__} names none .*x_m, y_m"
    with pytest.raises(ConfigurationError, match=message):
        loss().check(task, data)
    loss().check(Hashing(), replace(data, classes=("x", "y"), quantities=(), points=()))


# Losses of the network


def trained(setting: Setting, dtype: torch.dtype = torch.float32) -> tuple[AdaptationLoss, Network]:
    """A loss, and its network after it has moved from where it was when the loss was built."""
    net = network(dtype)
    loss = setting.make(net).to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(dtype))
    return loss, net


def step(loss: AdaptationLoss, net: Network, dtype: torch.dtype = torch.float32) -> Tensor:
    result = loss.step(net, batch(dtype=dtype), None, None)
    return result["loss"] if isinstance(result, dict) else result


@every_loss_of_the_network
def test_of_the_network_zero_at_the_start_and_a_gradient_to_the_backbone_later(setting: Setting) -> None:
    net = network()
    assert (step(setting.make(net), net) == 0) == setting.vanishes
    loss, net = trained(setting)
    result = step(loss, net)
    assert result.shape == ()
    assert result > 1e-4
    assert all(gradient.isfinite().all() for gradient in gradients(result, list(net.backbone.parameters())))
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@every_loss_of_the_network
def test_of_the_network_gradcheck_in_float64(setting: Setting) -> None:
    loss, net = trained(setting, torch.float64)
    parameters = list(net.backbone.parameters())
    assert torch.autograd.gradcheck(lambda *_: step(loss, net, torch.float64), parameters, atol=1e-7)


@every_loss_of_the_network
def test_of_the_network_it_leaves_the_network_as_it_was(setting: Setting) -> None:
    """No dropout and no batch statistics: nothing is drawn, nothing changes, and rows do not meet."""
    loss, net = trained(setting)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    assert any(modes)
    random = torch.get_rng_state()
    assert torch.equal(step(loss, net), step(loss, net))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@every_loss_of_the_network
def test_of_the_network_is_the_mean_over_equal_parts_of_a_batch(setting: Setting) -> None:
    """What makes the average of the ranks' gradients that of the whole."""
    loss, net = trained(setting, torch.float64)
    whole = batch(6, torch.float64).source
    parts = [Samples(whole.x[rows], None, whole.domain[rows], whole.index[rows]) for rows in (slice(3), slice(3, 6))]
    values = [loss.step(net, DomainBatch(part, None), None, None) for part in (whole, *parts)]
    torch.testing.assert_close(values[0], (values[1] + values[2]) / 2, rtol=1e-12, atol=0)


@every_loss_of_the_network
def test_of_the_network_half_precision_is_raised_and_float64_kept(setting: Setting) -> None:
    loss, net = trained(setting, torch.float64)
    exact = step(loss, net, torch.float64)
    assert exact.dtype == torch.float64
    loss, net = trained(setting, torch.bfloat16)
    rounded = step(loss, net, torch.bfloat16)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0.05, atol=0)


@every_loss_of_the_network
def test_of_the_network_nan_is_not_hidden(setting: Setting) -> None:
    loss, net = trained(setting)
    with torch.no_grad():
        next(net.backbone.parameters())[0, 0] = torch.nan
    assert step(loss, net).isnan()


@every_loss_of_the_network
def test_of_the_network_the_start_survives_a_checkpoint(setting: Setting) -> None:
    loss, net = trained(setting)
    again = setting.make(net)  # built on the network as it is now
    assert (step(again, net) == 0) == setting.vanishes
    again.load_state_dict(loss.state_dict())
    assert torch.equal(step(again, net), step(loss, net))


@pytest.mark.parametrize("setting", [*OF_THE_NETWORK, *(s for s in SETTINGS if s.loss is tlkit.losses.BSS)], ids=str)
def test_a_backbone_that_does_not_learn_is_refused(setting: Setting) -> None:
    net = network()
    net.backbone.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="no parameter of Sequential does"):
        setting.make(net)
