import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tlkit import functional
from tlkit.functional import diagnosis, hamming
from tlkit.functional.deterministic import cumulative_sum


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Devices(TorchDispatchMode):
    """Remembers where cumulative sums are done."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.cumsum.default:
            self.seen.append(args[0].device.type)
        return func(*args, **kwargs or {})


def where_it_is_summed(x):
    """What would happen on CUDA: fake tensors have its device and no values."""
    with FakeTensorMode(), Devices() as devices:
        result = cumulative_sum(torch.empty(3, 4, dtype=x, device="cuda"), dim=1)
    assert (result.device.type, result.dtype, result.shape) == ("cuda", x, (3, 4))
    return devices.seen


def test_floating_point_goes_over_the_cpu_where_it_must_be_deterministic(deterministic):
    assert where_it_is_summed(torch.float64) == where_it_is_summed(torch.float32) == ["cpu"]
    assert where_it_is_summed(torch.int64) == ["cuda"]


def test_and_nowhere_else():
    assert where_it_is_summed(torch.float64) == ["cuda"]


class NoFloatCumsum(TorchFunctionMode):
    """Refuses what CUDA refuses under ``use_deterministic_algorithms(True)``, whatever the device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.cumsum, torch.cumsum) and args[0].is_floating_point():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")
        return func(*args, **kwargs or {})


def scores():
    torch.manual_seed(0)
    score, positive = torch.randn(40).round(decimals=1), torch.rand(40) < 0.4
    counts = torch.cat(list(functional.resampled_counts(40, 5)))
    codes, labels = functional.pack_codes(torch.randn(30, 8)), torch.randint(3, (30,))
    found = functional.count_by_distance(codes[:7], labels[:7], codes, labels, bits=8)
    return [
        functional.auroc(score, positive),
        functional.auroc(score, positive, counts),
        functional.youden_threshold(score, positive),
        functional.average_precision(*found),
        functional.average_precision(*found, k=5),
    ]


def test_every_score_sums_so(deterministic, monkeypatch):
    expected = scores()
    for module in (diagnosis, hamming):
        monkeypatch.setattr(module, "cumulative_sum", lambda x, dim: torch.from_numpy(x.numpy().cumsum(dim)))
    with NoFloatCumsum():
        got = scores()
    torch.testing.assert_close(got, expected)
