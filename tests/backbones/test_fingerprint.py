import pytest
import torch

from tlkit.backbones import FingerprintNet
from tlkit.backbones.contract import check_backbone
from tlkit.errors import BackboneError

QUIET = {"dropout": 0.0, "ap_dropout": 0.0, "noise": 0.0}


def scans(rows=64, access_points=30):
    x = torch.rand(rows, access_points)
    return x * (torch.rand(rows, access_points) < 0.4)


def test_the_number_of_access_points_is_found_in_the_first_batch():
    net = FingerprintNet(width=8)
    assert check_backbone(net, scans()) == 8
    assert net.first.weight.shape == (8, 30)
    assert sorted(net.state_dict()) == sorted(FingerprintNet(30, width=8).state_dict())
    fresh = FingerprintNet(width=8)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh.eval()(scans(3) * 0 + 0.5), net.eval()(scans(3) * 0 + 0.5))


def test_what_was_not_heard_is_not_changed_in_training():
    x = scans()
    net = FingerprintNet(30, ap_dropout=0.0, noise=0.5)
    changed = net._prepare(x)
    assert torch.equal(changed == 0, x == 0)  # what is heard stays heard, and nothing appears
    assert (changed[x > 0] != x[x > 0]).all()
    assert torch.equal(net.eval()._prepare(x), x)


def test_noise_has_the_size_that_was_asked_for():
    x = torch.full((4000, 30), 0.5)
    noisy = FingerprintNet(30, ap_dropout=0.0, noise=0.02)._prepare(x)
    assert noisy.std().item() == pytest.approx(0.02, rel=0.05)


def test_each_scan_loses_its_own_share_of_access_points():
    x = torch.ones(2000, 200)
    lost = (FingerprintNet(200, ap_dropout=0.6, noise=0.0)._prepare(x) == 0).float().mean(1)
    assert lost.mean().item() == pytest.approx(0.3, abs=0.02)
    assert lost.min() < 0.05
    assert 0.5 < lost.max() < 0.75


def test_each_scan_is_deaf_to_what_is_below_its_own_threshold():
    x = torch.arange(1, 201).expand(2000, 200) / 200
    changed = FingerprintNet(200, ap_dropout=0.0, ap_threshold=0.5, noise=0.0)._prepare(x)
    lost = changed == 0
    assert torch.equal(changed[~lost], x[~lost])
    assert (lost.int().diff(dim=1) <= 0).all()  # the faint ones, not any
    assert lost.float().mean(1).mean().item() == pytest.approx(0.25, abs=0.01)
    assert lost[:, 100:].sum() == 0
    assert torch.equal(FingerprintNet(200, ap_threshold=0.5).eval()._prepare(x), x)


def test_normalisation_by_the_number_heard_and_by_length():
    x = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.3, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    count = FingerprintNet(4, normalize="count", **QUIET)._prepare(x)
    assert count[0].tolist() == pytest.approx([0.25] * 4)
    assert count[1].tolist() == pytest.approx([0.3 / 2**0.5, 0.4 / 2**0.5, 0, 0])
    length = FingerprintNet(4, normalize="length", **QUIET)._prepare(x)
    assert length[1].tolist() == pytest.approx([0.6, 0.8, 0, 0])
    assert count[2].tolist() == length[2].tolist() == [0.0] * 4  # an empty scan is no NaN


def test_an_access_point_that_training_never_heard_has_little_influence():
    torch.manual_seed(0)
    net = torch.nn.Sequential(FingerprintNet(30, width=32, **QUIET), torch.nn.Linear(32, 2))
    x, new = scans(256), torch.zeros(256, 30)
    x[:, 20:] = 0
    y = x[:, :2]
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    net.eval()
    new[:, 25] = 0.6
    known = torch.zeros(256, 30)
    known[:, 0] = 0.6
    with torch.no_grad():
        of_new, of_known = ((net(x + part) - net(x)).abs().mean() for part in (new, known))
    assert of_new < 0.2 * of_known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "in_features=.* must be at least 1, got 0"),
        ({"blocks": -1}, "blocks=.* must be at least 0, got -1"),
        ({"ap_dropout": 1.0}, r"ap_dropout=.* must be in \[0, 1\), got 1.0"),
        ({"ap_threshold": 1.5}, r"ap_threshold=.* must be in \[0, 1\), got 1.5"),
        ({"noise": -0.1}, "noise=.* is a standard deviation from 0 up, got -0.1"),
        ({"normalize": "lenght"}, "unknown normalize 'lenght': did you mean 'length'"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(BackboneError, match=message):
        FingerprintNet(**arguments)


def test_a_scan_of_another_width_is_refused():
    net = FingerprintNet(30)
    with pytest.raises(BackboneError, match=r"scans of shape \(B, 30\), got torch.float32 of shape \(4, 31\)"):
        net(torch.rand(4, 31))
    with pytest.raises(BackboneError, match=r"scans of shape \(B, in_features\), got torch.int64"):
        FingerprintNet()(torch.ones(4, 31, dtype=torch.int64))
