import pytest
import torch
from torch import nn

from tests.shift import MLP
from tlkit.batchnorm import DomainBatchNorm
from tlkit.errors import BackboneError, ConfigurationError
from tlkit.network import Network
from tlkit.tasks import Classification
from tlkit.types import DataSpec, DomainBatch, Samples

SPEC = DataSpec(("a", "b"), ("a",), ("b",), classes=("x", "y", "z"))


def samples(rows, seed, offset=0.0, y=True):
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)) + offset
    index = torch.arange(rows)
    return Samples(x, index % 3 if y else None, torch.zeros(rows, dtype=torch.int64), index)


def network(batch_norm, norm_layers=True):
    torch.manual_seed(0)
    net = Network(MLP(batch_norm=norm_layers), Classification(), batch_norm)
    net.build(SPEC, torch.zeros(2, 8))
    return net


BATCH = DomainBatch(samples(12, 0), samples(7, 1, offset=4.0, y=False))


def test_joint_and_separate_agree_without_batch_norm():
    one, two = (network(mode, norm_layers=False).encode(BATCH) for mode in ("joint", "separate"))
    for left, right in zip(one, two, strict=True):
        torch.testing.assert_close(left.features, right.features)
        torch.testing.assert_close(left.outputs, right.outputs)
    assert one[0].y is BATCH.source.y
    assert one[1].y is None


def test_joint_normalises_all_rows_together_and_separate_each_side():
    for mode in ("joint", "separate"):
        net = network(mode)
        seen = []
        net.backbone.layers[1].register_forward_hook(lambda layer, args, out, seen=seen: seen.append(out.detach()))
        net.encode(BATCH)
        assert [len(out) for out in seen] == ([19] if mode == "joint" else [12, 7])
        for out in seen:
            torch.testing.assert_close(out.mean(0), torch.zeros(16), atol=1e-5, rtol=0)


def test_separate_updates_running_statistics_source_first():
    net = network("separate")
    linear, norm = net.backbone.layers[0], net.backbone.layers[1]
    expected = torch.zeros(16)
    for side in (BATCH.source, BATCH.target):
        expected = 0.9 * expected + 0.1 * linear(side.x).mean(0)
    net.encode(BATCH)
    torch.testing.assert_close(norm.running_mean, expected)


def test_domain_specific_keeps_statistics_and_affine_parameters_apart():
    net = network("domain_specific")
    norm = net.backbone.layers[1]
    assert isinstance(norm, DomainBatchNorm)
    linear = net.backbone.layers[0]
    source, _target = net.encode(BATCH)
    torch.testing.assert_close(norm.source.running_mean, 0.1 * linear(BATCH.source.x).mean(0))
    torch.testing.assert_close(norm.target.running_mean, 0.1 * linear(BATCH.target.x).mean(0))
    source.outputs.sum().backward()
    assert norm.source.weight.grad is not None
    assert norm.target.weight.grad is None
    net.eval()
    as_source, as_target = (net(BATCH.target.x, role)[1] for role in ("source", "target"))
    assert not torch.allclose(as_source, as_target)


def test_domain_specific_needs_batch_norm_layers():
    with pytest.raises(ConfigurationError, match="domain_specific needs a network with batch normalisation, and MLP"):
        network("domain_specific", norm_layers=False)


def test_unknown_mode_is_refused():
    with pytest.raises(ConfigurationError, match="'joint', 'separate', 'domain_specific', 'adabn', got 'both'"):
        Network(MLP(), Classification(), "both")


def test_one_sided_batches():
    net = network("joint")
    source, target = net.encode(DomainBatch(BATCH.source, None))
    assert target is None
    assert source.outputs.shape == (12, 3)
    source, target = net.encode(DomainBatch(None, BATCH.target))
    assert source is None
    assert target.features.shape == (7, 6)


def test_a_wrong_width_is_found_at_build():
    backbone = MLP()
    backbone.num_features = 7
    with pytest.raises(BackboneError, match="7"):
        Network(backbone, Classification()).build(SPEC, torch.zeros(2, 8))


class Bag(nn.Module):
    """A masked mean of embeddings: padding must not change it."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, x):
        mask = x["attention_mask"][..., None].float()
        return (self.embedding(x["input_ids"]) * mask).sum(1) / mask.sum(1)


def tokens(rows, length):
    ids = torch.arange(rows * length).reshape(rows, length) % 9 + 1
    x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Samples(x, None, torch.zeros(rows, dtype=torch.int64), torch.arange(rows))


@pytest.mark.parametrize(("source_length", "target_length"), [(5, 3), (3, 5), (4, 4)])
def test_texts_of_different_length_share_a_pass(source_length, target_length):
    net = Network(Bag(), Classification())
    batch = DomainBatch(tokens(2, source_length), tokens(3, target_length))
    net.build(SPEC, batch.source.x)
    together = net.encode(batch)
    net.batch_norm = "separate"
    for left, right in zip(together, net.encode(batch), strict=True):
        torch.testing.assert_close(left.features, right.features)


def test_rows_that_cannot_share_a_pass_are_refused():
    net = network("joint", norm_layers=False)
    other = Samples(torch.zeros(3, 9), None, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    with pytest.raises(ConfigurationError, match=r"\(8,\) and target rows \(9,\).*batch_norm: separate"):
        net.encode(DomainBatch(BATCH.source, other))
    first, second = tokens(2, 5), tokens(2, 3)
    del first.x["attention_mask"], second.x["attention_mask"]
    with pytest.raises(ConfigurationError, match="5 and 3 long and carry no attention_mask"):
        net.encode(DomainBatch(first, second))


def test_adabn_trains_on_the_source_and_keeps_statistics_apart_with_one_scale_and_shift():
    net = network("adabn")
    norm = net.backbone.layers[1]
    assert norm.source.weight is norm.target.weight
    assert norm.source.bias is norm.target.bias
    assert len({id(p) for p in net.parameters()}) == len(list(net.parameters()))
    source, _ = net.encode(DomainBatch(BATCH.source, None))
    source.outputs.sum().backward()
    assert norm.source.running_mean.norm() > 0
    assert norm.target.running_mean.norm() == 0


def test_reestimated_statistics_are_those_of_the_targets_rows_and_nothing_else_moves():
    net = network("adabn")
    net.backbone.layers.append(nn.Dropout(0.5))
    net.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batches = [torch.randn(6, 8) + 3, torch.randn(2, 8) - 1]
    net.reestimate([*batches, torch.randn(1, 8)])  # a last batch of one row has no variance, and is left out
    linear, norm = net.backbone.layers[0], net.backbone.layers[1]
    hidden = [linear(x) for x in batches]
    torch.testing.assert_close(norm.target.running_mean, (6 * hidden[0].mean(0) + 2 * hidden[1].mean(0)) / 8)
    torch.testing.assert_close(norm.target.running_var, (6 * hidden[0].var(0) + 2 * hidden[1].var(0)) / 8)
    assert norm.target.momentum == 0.1
    assert not any(module.training for module in net.modules())
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {
        f"backbone.layers.1.target.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_adabn_leaves_layers_out_that_keep_no_statistics():
    net = Network(MLP(batch_norm=True), Classification(), "adabn")
    net.backbone.layers.append(nn.BatchNorm1d(6, track_running_stats=False))
    net.build(SPEC, torch.zeros(2, 8))
    x = torch.randn(6, 8)
    net.reestimate([x])
    linear, norm = net.backbone.layers[0], net.backbone.layers[1]
    torch.testing.assert_close(norm.target.running_mean, linear(x).mean(0))
    features, _ = net.eval()(x)
    torch.testing.assert_close(features.mean(0), torch.zeros(6), atol=1e-5, rtol=0)  # by the batch, as ever


def test_adabn_without_any_statistics_is_refused():
    net = Network(MLP(), Classification(), "adabn")
    net.backbone.layers.append(nn.BatchNorm1d(6, track_running_stats=False))
    with pytest.raises(ConfigurationError, match=r"the layers of MLP keep none \(track_running_stats=False\): use"):
        net.build(SPEC, torch.zeros(2, 8))


def test_a_bottleneck_makes_the_features():
    torch.manual_seed(0)
    net = Network(MLP(), Classification())
    net.backbone.bottleneck_features = 5
    net.build(SPEC, torch.zeros(2, 8))
    assert net.num_features == 5
    assert net.task.head.in_features == 5
    linear, norm, relu, dropout = net.bottleneck
    assert (linear.in_features, norm.num_features, dropout.p) == (6, 5, 0.5)
    source, target = net.encode(BATCH)
    assert source.features.shape == (12, 5)
    assert target.features.min() == 0
    net.eval()
    features, outputs = net(BATCH.source.x)
    torch.testing.assert_close(features, relu(norm(linear(net.backbone(BATCH.source.x)))))
    torch.testing.assert_close(outputs, net.task(features))
    assert not any(name.startswith("bottleneck") for name in network("joint").state_dict())
