"""Batch normalisation over ranks keeps the network; AdaBN counts each row once. That it is exact: tests/test_ddp.py."""

import lightning as L
import pytest
import torch

from tests.ranks import on_ranks
from tests.scaling import QUIET
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.backbones import TimmBackbone
from tlkit.batchnorm import normalise_over_ranks
from tlkit.tasks import Classification


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_resnet"])  # with the activation in the layer, without
def test_the_network_computes_what_it_did_under_the_same_names(device, name):
    torch.manual_seed(0)
    backbone, x = TimmBackbone(name), torch.rand(4, 3, 32, 32)
    backbone(x)  # statistics other than those that layers begin with
    before, names = backbone.eval()(x), list(backbone.state_dict())
    normalise_over_ranks(backbone, torch.device(device))
    kinds = [type(layer) for layer in backbone.modules()]
    torch.testing.assert_close(backbone.eval()(x), before)
    assert list(backbone.state_dict()) == names
    assert not any(kind in (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d) for kind in kinds)
    normalise_over_ranks(backbone, torch.device(device))  # a second fit
    assert [type(layer) for layer in backbone.modules()] == kinds
    torch.testing.assert_close(backbone(x), before)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 4, 5)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_single_process_normalises_and_remembers_as_torch_does(shape, momentum):
    kind = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    layers = [torch.nn.Sequential(kind(3, momentum=momentum)) for _ in range(2)]
    normalise_over_ranks(layers[1], torch.device("cpu"))
    for _ in range(2):
        x = torch.randn(shape)
        assert torch.equal(layers[0](x), layers[1](x))
    for name, value in layers[0].state_dict().items():
        assert torch.equal(layers[1].state_dict()[name], value)


def adapted_statistics():
    """Train on two ranks, and return the target's statistics of the first layer beside those of all of its rows."""
    L.seed_everything(7)
    backbone = MLP(batch_norm=True).double()
    model = TransferModule(backbone, Classification(), batch_norm="adabn")
    data = ShiftedBlobs(["still"], ["moved"], batch_size=8, dtype=torch.float64)
    data.sizes = {**data.sizes, "moved": 94}
    options = {**QUIET, "limit_val_batches": 1, "val_check_interval": 3, "check_val_every_n_epoch": None}
    trainer = L.Trainer(devices=2, strategy="ddp", max_steps=3, precision="64-true", **options)
    trainer.fit(model, data)
    rows = torch.as_tensor(data.splits["moved"]["reference"])
    inputs = data.rows("moved")[0][rows]
    linear, norm = backbone.layers[0], backbone.layers[1]
    return len(rows), norm.target.running_mean.tolist(), linear(inputs).mean(0).tolist()


@pytest.mark.ddp
def test_rows_that_fill_a_ranks_last_batch_do_not_count_in_adapted_statistics(tmp_path):
    for rows, found, expected in on_ranks(2, adapted_statistics, folder=tmp_path):
        assert rows % 2 == 1  # one rank is given a row again
        assert found == pytest.approx(expected, rel=1e-12)


def layers_of_two_fits():
    """Fit two models by one trainer, and return what kinds of batch-norm layer each was left with."""
    options = {**QUIET, "sync_batchnorm": True, "strategy": "ddp", "devices": 2}
    trainer = L.Trainer(**options)
    kinds = []
    for steps in (1, 2):
        trainer.fit_loop.epoch_loop.max_steps = steps
        model = TransferModule(MLP(batch_norm=True), Classification())
        trainer.fit(model, ShiftedBlobs(["still"], batch_size=8))
        kinds.append(type(model.network.backbone.layers[1]).__name__)
    return kinds


@pytest.mark.ddp
def test_the_second_fit_of_a_trainer_synchronises_too(tmp_path):
    assert on_ranks(2, layers_of_two_fits, folder=tmp_path) == [["RankBatchNorm"] * 2] * 2
