import copy

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import SGD

import tlkit.backbones
from tests.losses.settings import batch, network
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.losses import L2SP
from tlkit.tasks import Classification


def test_by_hand_and_independent_of_the_data():
    net = network()
    loss = L2SP(beta=0.5)
    loss.build(net)
    start = copy.deepcopy(net.backbone.state_dict())
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.add_(torch.randn_like(parameter))
        net.backbone[1].running_mean += 100  # statistics are no parameters
    moved = sum((p - start[name]).square().sum() for name, p in net.backbone.named_parameters())
    head = sum(p.square().sum() for p in net.task.parameters())
    assert head > 0
    expected = moved / 2 + 0.5 * head / 2
    torch.testing.assert_close(loss.step(net, None, None, None), expected)
    torch.testing.assert_close(loss.step(net, batch(), None, None), expected)


def test_the_gradient_is_the_way_back():
    net = network()
    loss = L2SP()
    loss.build(net)
    with torch.no_grad():
        net.backbone[3].weight.add_(0.25)
    gradients = torch.autograd.grad(loss.step(net, None, None, None), list(net.backbone.parameters()))
    expected = [0.25 if parameter is net.backbone[3].weight else 0.0 for parameter in net.backbone.parameters()]
    for gradient, value in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, torch.full_like(gradient, value))


def test_what_is_frozen_does_not_count_and_is_not_stored():
    net = network()
    net.backbone[0].requires_grad_(False)
    loss = L2SP()
    loss.build(net)
    assert len(loss.start) == sum(p.numel() for p in net.backbone.parameters()) - net.backbone[0].weight.numel() - 6


def test_training_ends_nearer_to_the_start_and_never_moves_it():
    """The starting point is the weights as they came, whatever training has done since, also in a second fit."""

    def distance(weight):
        L.seed_everything(1)
        backbone = MLP()
        start = torch.cat([p.detach().flatten().clone() for p in backbone.parameters()])
        model = TransferModule(
            backbone, Classification(), [L2SP(weight=weight)], optimizer=lambda p: SGD(p, lr=0.1, weight_decay=0.0)
        )
        assert not model.uses_target
        for _ in range(2):
            trainer = L.Trainer(
                accelerator="cpu", max_steps=10, logger=False, enable_checkpointing=False, limit_val_batches=0,
                enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            trainer.fit(model, ShiftedBlobs(["still"], ["moved"]))
        assert torch.equal(model.adaptation["l2_sp"].start, start)
        assert isinstance(model.adaptation["l2_sp"].start, nn.Parameter)
        return (torch.cat([p.flatten() for p in backbone.parameters()]) - start).norm().item()

    free, held, tight = distance(0.0), distance(1.0), distance(5.0)
    assert free > 1.5 * held
    assert held > 1.5 * tight > 0


def test_a_backbone_that_takes_its_width_from_the_data_gets_its_start_from_the_checkpoint():
    def fresh():
        return TransferModule(tlkit.backbones.MLP(hidden=(6,)), Classification(), [L2SP()])

    trained = fresh()
    torch.manual_seed(0)
    trained.build(ShiftedBlobs(["still"]).spec(), torch.rand(2, 8))
    loaded = fresh()
    loaded.build(ShiftedBlobs(["still"]).spec())
    loaded.load_state_dict(trained.state_dict())
    loaded(torch.rand(2, 8))
    start = loaded.adaptation["l2_sp"].start
    assert torch.equal(start, trained.adaptation["l2_sp"].start)
    assert not start.requires_grad
    assert loaded.adaptation["l2_sp"].step(loaded.network, None, None, None) == 0


def test_the_weight_is_the_papers_alpha():
    """One step of SGD from w moves by lr * alpha * (w - w0), and nothing else moves it here."""
    net = network()
    loss = L2SP(weight=0.2)
    loss.build(net)
    with torch.no_grad():
        net.backbone[0].weight.add_(1.0)
    before = net.backbone[0].weight.detach().clone()
    optimizer = SGD(net.backbone.parameters(), lr=0.5)
    (loss.weight(0.0) * loss.step(net, None, None, None)).backward()
    optimizer.step()
    assert (before - net.backbone[0].weight).mean().item() == pytest.approx(0.5 * 0.2 * 1.0)
