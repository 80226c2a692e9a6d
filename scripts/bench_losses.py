"""Time tlkit's losses against their plain autograd forms, forward and backward, in one interleaved run.

    python scripts/bench_losses.py [--repeats 7] [--threads 1]

Prints the median times and their ratio, and exits with status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tlkit.functional import coral, mmd

TwoSample = Callable[[Tensor, Tensor], Tensor]


def plain_mmd(source: Tensor, target: Tensor) -> Tensor:
    """The biased squared MMD by autograd over one Gram matrix and five exponentials."""
    n = len(source)
    rows = torch.cat([source, target])
    squares = rows.square().sum(1)
    distances = (squares[:, None] + squares - 2 * (rows @ rows.T)).clamp(min=0)
    base = distances.detach().sum() / (len(rows) * (len(rows) - 1))
    kernel = torch.exp(-distances / (0.25 * base))
    for factor in (0.5, 1.0, 2.0, 4.0):
        kernel = kernel + torch.exp(-distances / (factor * base))
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def plain_coral(source: Tensor, target: Tensor) -> Tensor:
    """The CORAL loss by autograd over the two covariances."""

    def covariance(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(0)
        return centred.T @ centred / (len(rows) - 1)

    return (covariance(source) - covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


# name, tlkit's, the plain form, rows a side, features, the largest ratio allowed
CASES: list[tuple[str, TwoSample, TwoSample, int, int, float]] = [
    ("mmd", mmd, plain_mmd, 32, 2048, 0.65),
    ("mmd", mmd, plain_mmd, 128, 256, 0.65),
    ("mmd", mmd, plain_mmd, 256, 2048, 0.65),
    ("coral", coral, plain_coral, 32, 2048, 1 / 15),
]


def seconds(function: TwoSample, source: Tensor, target: Tensor) -> float:
    """Return the time of one forward and backward pass."""
    source.grad = target.grad = None
    start = time.perf_counter()
    torch.autograd.backward(function(source, target))
    return time.perf_counter() - start


def measure(ours: TwoSample, plain: TwoSample, rows: int, features: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds of both forms, timed in turn; check first that they agree."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(rows, features, generator=generator).requires_grad_()
    target = (torch.randn(rows, features, generator=generator) + 0.1).requires_grad_()
    torch.testing.assert_close(ours(source, target), plain(source, target), rtol=1e-4, atol=1e-6)

    # small shapes are called more often, about 20 ms a repeat, so that they are not at the mercy of one interruption
    calls = max(1, round(0.02 / min(seconds(ours, source, target) for _ in range(3))))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats * calls):
        times[0].append(seconds(ours, source, target))
        times[1].append(seconds(plain, source, target))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7, help="repeats of about 20 ms a form (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads torch may use (default: %(default)s)")
    options = parser.parse_args()
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    torch.set_num_threads(options.threads)

    print(f"forward + backward, float32, {options.threads} thread(s), medians, torch {torch.__version__}")
    print(f"{'loss':<6} {'rows x features':>16} {'tlkit ms':>9} {'plain ms':>9} {'ratio':>7} {'at most':>8}")
    missed = 0
    for name, ours, plain, rows, features, bound in CASES:
        fast, slow = measure(ours, plain, rows, features, options.repeats)
        ratio = fast / slow
        missed += ratio > bound
        verdict = "ok" if ratio <= bound else "MISSED"
        shape = f"{rows} x {features}"
        print(
            f"{name:<6} {shape:>16} {fast * 1e3:9.3f} {slow * 1e3:9.3f} {ratio:7.3f} {bound:8.3f}  {verdict}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
