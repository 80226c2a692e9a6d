from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tlkit.backbones import CNN1d
from tlkit.errors import BackboneError

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_cnn1d.py"
plain_cnn1d = runpy.run_path(str(SCRIPT))["plain_cnn1d"]
# AdaTime's own settings: activity recognition, sleep EEG, machine faults; and a longer output.
ADATIME = [
    ({"in_channels": 9}, 128),
    ({"in_channels": 1, "channels": (32, 64, 128), "kernel_size": 25, "stride": 6}, 3000),
    ({"in_channels": 1, "kernel_size": 32, "stride": 6}, 512),
    ({"in_channels": 3, "output_length": 4}, 61),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("arguments", "length"), ADATIME)
def test_equals_the_network_of_1d_layers(arguments, length, training):
    """In float64, where two orders of summation differ by rounding alone: outputs, gradients and running statistics."""
    plain = plain_cnn1d(**arguments, dropout=0.0).double()
    ours = CNN1d(**arguments, dropout=0.0).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), plain.state_dict().values(), strict=True)))
    results = []
    for network in (plain, ours):
        torch.manual_seed(1)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        x = torch.randn(5, arguments["in_channels"], length, dtype=torch.float64, requires_grad=True)
        out = network.train(training)(x)
        (out * torch.randn_like(out)).sum().backward()
        results.append([out, x.grad, *(p.grad for p in network.parameters()), *network.buffers()])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_parameters_have_the_names_and_shapes_of_adatime():
    state = CNN1d(9).state_dict()
    weights = {key: tuple(value.shape) for key, value in state.items() if value.dim() == 3}
    assert weights == {
        "conv_block1.0.weight": (64, 9, 5),
        "conv_block2.0.weight": (128, 64, 8),
        "conv_block3.0.weight": (128, 128, 8),
    }
    assert "conv_block3.1.running_var" in state
    assert not any(key.endswith("0.bias") for key in state)


@pytest.mark.parametrize("channels", [1, 9])
def test_stays_in_channels_last_memory(channels):
    """Which is what makes it fast; with one channel torch would fall back to the other format."""
    backbone, seen = CNN1d(channels), []
    for block in (backbone.conv_block1, backbone.conv_block2, backbone.conv_block3):
        block.register_forward_hook(lambda module, inputs, out: seen.append(out))
    backbone(torch.randn(4, channels, 128))
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)


def test_drops_half_of_the_first_block_while_training():
    backbone, seen = CNN1d(9), []
    backbone.conv_block1.register_forward_hook(lambda module, inputs, out: seen.append(out))
    x = torch.randn(8, 9, 128)
    backbone(x)
    backbone.eval()(x)
    shares = [(out == 0).double().mean().item() for out in seen]
    assert shares[0] > 0.5 > shares[1]


@pytest.mark.parametrize("length", [5, 6, 7, 31])
def test_short_windows_work_from_the_size_of_the_kernel(length):
    assert CNN1d(2)(torch.randn(4, 2, length)).shape == (4, 128)


def test_windows_that_do_not_fit():
    backbone = CNN1d(9)
    with pytest.raises(BackboneError, match=r"at least 5 time steps, got 4"):
        backbone(torch.randn(2, 9, 4))
    with pytest.raises(BackboneError, match=r"shape \(B, 9, T\), got \(2, 6, 128\): set in_channels"):
        backbone(torch.randn(2, 6, 128))
    with pytest.raises(BackboneError, match=r"look like \(B, T, C\), transpose them"):
        backbone(torch.randn(2, 128, 9))
    with pytest.raises(BackboneError, match="got \\(9, 128\\)"):
        backbone(torch.randn(9, 128))
    with pytest.raises(BackboneError, match="leave 3 time steps"):
        CNN1d(9, output_length=4)(torch.randn(2, 9, 8))


@pytest.mark.parametrize(
    "arguments",
    [{"channels": (4, 4)}, {"dropout": 1.0}, {"in_channels": 0}, {"stride": 0}, {"kernel_size": 0}],
    ids=str,
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(BackboneError, match=next(iter(arguments))):
        CNN1d(**{"in_channels": 2, **arguments})


def test_the_benchmark_runs(monkeypatch, capsys):
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--rounds", "1", "--batch", "4", "--threads", threads])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert f"| {threads} | CNN1d |" in capsys.readouterr().out
