from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tlkit.backbones import InceptionTime
from tlkit.errors import BackboneError


def plain(network, x, depth, kernel_sizes):
    """Compute the network's output in evaluation mode by 1-D functions, from its weights by name."""
    state = network.state_dict()

    def norm(x, name):
        mean, var, scale, shift = (
            state[f"{name}.{part}"][None, :, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    into = x
    for place in range(depth):
        name = f"inceptions.{place}"
        narrow = F.conv1d(x, state[f"{name}.bottleneck.weight"])
        branches = [
            F.conv1d(F.pad(narrow, ((size - 1) // 2, size // 2)), state[f"{name}.branches.{number}.weight"])
            for number, size in enumerate(kernel_sizes)
        ]
        pooled = F.conv1d(F.max_pool1d(x, 3, 1, 1), state[f"{name}.pooled.1.weight"])
        x = norm(torch.cat([*branches, pooled], dim=1), f"{name}.norm").relu()
        if place % 3 == 2:
            shortcut = f"shortcuts.{place // 3}"
            x = into = (x + norm(F.conv1d(into, state[f"{shortcut}.0.weight"]), f"{shortcut}.1")).relu()
    return x.mean(2)


@pytest.mark.parametrize(("depth", "kernel_sizes"), [(6, (40, 20, 10)), (2, (9, 4)), (4, (3,))])
def test_equals_the_network_of_1d_functions(depth, kernel_sizes):
    network = InceptionTime(3, filters=4, depth=depth, kernel_sizes=kernel_sizes, bottleneck=2).double().eval()
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.1)
        x = torch.randn(5, 3, 50, dtype=torch.float64)
        torch.testing.assert_close(network(x), plain(network, x, depth, kernel_sizes), rtol=1e-9, atol=1e-9)


def test_has_the_size_of_the_paper():
    network = InceptionTime(1)
    assert network.num_features == 128
    assert [len(network.inceptions), len(network.shortcuts)] == [6, 2]
    assert [shortcut[0].weight.shape for shortcut in network.shortcuts] == [(128, 1, 1), (128, 128, 1)]
    assert [branch.kernel_size for branch in network.inceptions[0].branches] == [(40,), (20,), (10,)]


def test_windows_of_every_length():
    backbone = InceptionTime(3, filters=2).eval()
    assert all(backbone(torch.randn(2, 3, length)).shape == (2, 8) for length in (1, 2, 7, 128))


@pytest.mark.parametrize(
    "arguments",
    [{"in_channels": 0}, {"filters": 0}, {"depth": 0}, {"bottleneck": 0}, {"kernel_sizes": ()}, {"dropout": -0.1}],
    ids=str,
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(BackboneError, match=next(iter(arguments))):
        InceptionTime(**arguments)
