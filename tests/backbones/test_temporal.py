from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tlkit.backbones import CNN1d, InceptionTime, ResNet1d
from tlkit.backbones.contract import check_backbone
from tlkit.backbones.temporal import LazyTimeConv, TimeConv, check_windows, seen_channels, time_conv
from tlkit.errors import BackboneError, CheckpointError
from tlkit.module import TransferModule
from tlkit.tasks import Classification
from tlkit.types import DataSpec

SPEC = DataSpec(("hip", "wrist"), ("hip",), ("wrist",), classes=("walk", "rest"))
X = torch.randn(4, 6, 64)
NETWORKS = [
    lambda channels=None: CNN1d(channels, channels=(4, 6, 8)),
    lambda channels=None: ResNet1d(channels, channels=(4, 8)),
    lambda channels=None: InceptionTime(channels, filters=4, depth=3, bottleneck=4),
]
every_network = pytest.mark.parametrize("make", NETWORKS, ids=["CNN1d", "ResNet1d", "InceptionTime"])


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 8, 11])
@pytest.mark.parametrize("channels", [1, 5])
def test_is_a_1d_convolution_that_keeps_the_length(kernel_size, channels):
    conv = time_conv(channels, 3, kernel_size, padding="same").double()
    x = torch.randn(2, channels, 20, dtype=torch.float64)
    got = conv(x.unsqueeze(2).contiguous(memory_format=torch.channels_last))
    padded = F.pad(x, ((kernel_size - 1) // 2, kernel_size // 2))  # an even kernel: one step more behind
    torch.testing.assert_close(got.squeeze(2), F.conv1d(padded, conv.weight))
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_stride_and_padding_of_a_number():
    conv = time_conv(5, 3, 8, stride=3, padding=4).double()
    x = torch.randn(2, 5, 20, dtype=torch.float64)
    torch.testing.assert_close(conv(x.unsqueeze(2)).squeeze(2), F.conv1d(x, conv.weight, stride=3, padding=4))
    assert {name: value.shape for name, value in conv.state_dict().items()} == {"weight": (3, 5, 8)}


@every_network
def test_the_first_windows_say_how_many_channels_there_are(make):
    lazy = make()
    assert seen_channels(lazy) is None
    assert check_backbone(lazy, X) == lazy.num_features  # what building a model does
    assert seen_channels(lazy) == 6
    assert not any(isinstance(module, LazyTimeConv) for module in lazy.modules())
    assert {name: value.shape for name, value in lazy.state_dict().items()} == {
        name: value.shape for name, value in make(6).state_dict().items()
    }
    with pytest.raises(BackboneError, match=r"takes windows of shape \(B, 6, T\), got \(4, 5, 64\)"):
        lazy(X[:, :5])


@every_network
def test_a_lazy_network_loads_weights_before_it_has_seen_windows(make):
    trained, lazy = make(6).eval(), make().eval()
    lazy.load_state_dict(trained.state_dict())
    assert seen_channels(lazy) == 6
    with torch.no_grad():
        torch.testing.assert_close(lazy(X), trained(X), rtol=0, atol=0)
    with pytest.raises(BackboneError, match="got"):
        lazy(X[:, :5])


@every_network
def test_can_be_copied_and_pickled_before_it_has_seen_windows(make):
    for double in (copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))):
        other = double(make())
        assert seen_channels(other) is None
        assert other(X).shape == (4, other.num_features)


@every_network
def test_a_model_is_built_trained_and_loaded_again(make):
    model = TransferModule(make(), Classification(), batch_norm="domain_specific")
    model.build(SPEC, X[:2])
    optimizer = torch.optim.AdamW(model.parameters())
    first = next(module for module in model.network.modules() if isinstance(module, nn.Conv1d))
    before = first.weight.detach().clone()
    model.network(X, "source")[1].sum().backward()
    optimizer.step()
    assert not torch.equal(first.weight, before)
    again = TransferModule(make(), Classification(), batch_norm="domain_specific")
    again.build(SPEC)  # as tlkit.load: no data is there
    again.on_load_checkpoint({"state_dict": model.state_dict()})
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(X), model.eval()(X), rtol=0, atol=0)
    other = TransferModule(make(5), Classification(), batch_norm="domain_specific")
    other.build(SPEC)
    with pytest.raises(CheckpointError, match="of another shape"):
        other.on_load_checkpoint({"state_dict": model.state_dict()})


def test_nothing_warns_of_lazy_modules(recwarn):
    assert isinstance(time_conv(None, 3, 5), LazyTimeConv)
    assert type(time_conv(2, 3, 5)) is TimeConv
    assert not recwarn.list


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((9, 128), 9, r"Net\(in_channels=9\) takes windows of shape \(B, 9, T\), got \(9, 128\): set in_channels"),
        ((2, 128, 9), 9, r"look like \(B, T, C\), transpose them"),
        ((2, 9), None, r"takes windows of shape \(B, C, T\), got \(2, 9\)"),
        ((2, 9, 4), 9, r"Net\(width=5\) needs windows of at least 5 time steps, got 4: .* a smaller width"),
    ],
)
def test_what_are_no_windows(shape, channels, message):
    with pytest.raises(BackboneError, match=message):
        check_windows("Net", torch.zeros(shape), channels, 5, "width")
