from __future__ import annotations

import pytest
import torch
from torch import nn

from tlkit.backbones import ResNet1d
from tlkit.errors import BackboneError


class Plain(nn.Module):
    """The network of the paper, of 1-D layers."""

    def __init__(self, in_channels, channels):
        super().__init__()
        self.blocks, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        width = in_channels
        for place, out in enumerate(channels):
            layers = []
            for kernel, before, behind in ((8, 3, 4), (5, 2, 2), (3, 1, 1)):
                layers += [nn.ConstantPad1d((before, behind), 0), nn.Conv1d(width, out, kernel, bias=False)]
                layers += [nn.BatchNorm1d(out), nn.ReLU()]
                width = out
            self.blocks.append(nn.Sequential(*layers[:-1]))
            before = in_channels if place == 0 else channels[place - 1]
            expand = [nn.Conv1d(before, out, 1, bias=False)] if place == 0 or before != out else []
            self.shortcuts.append(nn.Sequential(*expand, nn.BatchNorm1d(out)))

    def forward(self, x):
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = (block(x) + shortcut(x)).relu()
        return x.mean(2)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("in_channels", "channels", "length"), [(6, (8, 16, 16), 61), (1, (4,), 10), (8, (8, 8), 3)])
def test_equals_the_network_of_1d_layers(in_channels, channels, length, training):
    plain, ours = Plain(in_channels, channels).double(), ResNet1d(in_channels, channels).double()
    with torch.no_grad():
        for block, shortcut, theirs in zip(plain.blocks, plain.shortcuts, ours.blocks, strict=True):
            for mine, other in ((block, theirs.layers), (shortcut, theirs.shortcut)):
                for one, two in zip(mine.state_dict().values(), other.state_dict().values(), strict=True):
                    value = torch.rand_like(one, dtype=torch.float64) if one.is_floating_point() else one
                    one.copy_(value)
                    two.copy_(value)
    x = torch.randn(5, in_channels, length, dtype=torch.float64)
    results = []
    for network in (plain, ours):
        inputs = x.clone().requires_grad_()
        out = network.train(training)(inputs)
        (out**2).sum().backward()
        results.append([out, inputs.grad])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_windows_of_every_length():
    backbone = ResNet1d(3, (4, 8)).eval()
    assert all(backbone(torch.randn(2, 3, length)).shape == (2, 8) for length in (1, 2, 7, 128))


@pytest.mark.parametrize(
    "arguments", [{"channels": ()}, {"channels": (4, 0)}, {"in_channels": 0}, {"dropout": 1.0}], ids=str
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(BackboneError, match=next(iter(arguments))):
        ResNet1d(**arguments)
