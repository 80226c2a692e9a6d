"""Time ``CNN1d`` against the same network made of ``nn.Conv1d`` layers.

One training step (forward and backward) on windows of UCI-HAR's shape, both networks in turn within one run, medians::

    OMP_WAIT_POLICY=passive python scripts/bench_cnn1d.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from tlkit.backbones import CNN1d


def plain_cnn1d(
    in_channels: int,
    channels: tuple[int, int, int] = (64, 128, 128),
    kernel_size: int = 5,
    stride: int = 1,
    dropout: float = 0.5,
    output_length: int = 1,
) -> nn.Sequential:
    """Return AdaTime's CNN as its paper writes it: 1-D layers, ReLU before pooling."""

    def block(width: int, out: int, kernel: int, step: int) -> list[nn.Module]:
        conv = nn.Conv1d(width, out, kernel, step, padding=kernel // 2, bias=False)
        return [conv, nn.BatchNorm1d(out), nn.ReLU(), nn.MaxPool1d(2, stride=2, padding=1)]

    first, second, third = channels
    return nn.Sequential(
        *block(in_channels, first, kernel_size, stride),
        nn.Dropout(dropout),
        *block(first, second, 8, 1),
        *block(second, third, 8, 1),
        nn.AdaptiveAvgPool1d(output_length),
        nn.Flatten(),
    )


def step(network: nn.Module, x: Tensor, direction: Tensor) -> float:
    """Run one forward and backward pass and return its seconds."""
    start = time.perf_counter()
    network.zero_grad()
    (network(x) * direction).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print the median milliseconds of a step for one and two threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shape", type=int, nargs=2, default=(9, 128), metavar=("CHANNELS", "STEPS"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    channels, steps = options.shape
    torch.manual_seed(0)
    networks = {"nn.Conv1d layers": plain_cnn1d(channels), "CNN1d": CNN1d(channels)}
    x, direction = torch.randn(options.batch, channels, steps), torch.randn(options.batch, 128)
    print(f"forward + backward, batch {options.batch} of ({channels}, {steps}), median of {options.rounds} rounds\n")
    print("| threads | network | ms | ratio |\n|---|---|---|---|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        for round_ in range(-3, options.rounds):
            for name, network in networks.items():
                taken = step(network, x, direction)
                if round_ >= 0:
                    seconds[name].append(taken)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        base = next(iter(medians.values()))
        for name, median in medians.items():
            print(f"| {threads} | {name} | {1000 * median:.1f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
