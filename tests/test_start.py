"""Training that starts from a trained model: which weights it takes, and what is refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import Adam

import tlkit
from tests.test_module import data, trainer
from tlkit import TransferModule, start_from
from tlkit.backbones import MLP, FingerprintNet
from tlkit.errors import CheckpointError, ConfigurationError
from tlkit.finetuning import LoRA
from tlkit.losses import BNM, L2SP
from tlkit.tasks import Classification, Diagnosis, Hashing, PlaceRegression, Regression
from tlkit.types import DataSpec

X = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
SPEC = DataSpec(("a",), ("a",), (), classes=("x", "y", "z"))


def built(spec=SPEC, task=None, backbone=None, **kwargs):
    model = TransferModule(backbone or MLP(4), task or Classification(), **kwargs)
    model.build(spec, X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


def started(trained, spec=SPEC, task=None, backbone=None, **kwargs):
    model = TransferModule(backbone or MLP(4), task or Classification(), **kwargs)
    start_from(model, trained)
    model.build(spec, X)
    return model.eval()


def features(model):
    return model.network.bottleneck(model.network.backbone(X))


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr("tlkit.network.say", lines.append)
    return lines


@torch.no_grad()
def test_backbone_and_head(said):
    trained = built()
    model = started(trained, adaptation=[BNM()])
    assert torch.equal(model(X), trained(X))
    assert not said
    model.network.backbone.layers[0].weight.zero_()
    assert trained.network.backbone.layers[0].weight.any()  # copies


@torch.no_grad()
def test_lazy_layers_take_the_shapes_of_the_trained():
    trained = built(backbone=FingerprintNet(width=8))
    model = started(trained, backbone=FingerprintNet(width=8))
    assert torch.equal(model(X), trained(X))


@pytest.mark.parametrize(
    ("spec", "task", "why"),
    [
        (DataSpec(("b",), ("b",), (), classes=("x", "y")), Classification(), "was built for the classes"),
        (DataSpec(("b",), ("b",), (), classes=("z", "y", "x")), Classification(), "was built for the classes"),
        (SPEC, Hashing(bits=8), "has another head, that of Classification"),
    ],
    ids=["fewer classes", "another order", "another task"],
)
@torch.no_grad()
def test_the_head_begins_anew_and_it_is_said_why(spec, task, why, said):
    trained = built()
    model = started(trained, spec, task)
    assert torch.equal(features(model), features(trained))
    assert len(said) == 1
    assert said[0].startswith("training starts from the backbone alone and the head begins anew: the model to start fr")
    assert why in said[0]


def test_a_head_without_labels_to_learn_from_is_refused():
    alone = DataSpec(("b",), (), ("b",), classes=("x", "y"))
    with pytest.raises(
        ConfigurationError, match="would begin anew and has no labels to learn from: the model to start"
    ):
        started(built(), alone, adaptation=[BNM()])
    few = DataSpec(("b",), (), ("b",), classes=("x", "y"), labelled=("b",))
    assert started(built(), few).network.num_outputs == 2


def counted(*counts, **kwargs):
    return DataSpec(("a",), ("a",), (), classes=("x", "y", "z"), class_counts=counts, **kwargs)


@torch.no_grad()
def test_what_a_class_weighs_follows_from_the_rows_of_this_run(said):
    trained = built(counted(10, 10, 0), Classification(class_weights="balanced"))
    for kind in ("balanced", "none"):
        model = started(trained, counted(2, 2, 8), Classification(class_weights=kind))
        assert torch.equal(model(X), trained(X))
    balanced = started(built(), counted(2, 2, 8), Classification(class_weights="balanced"))
    assert balanced.network.task.row_weights.tolist() == [2.0, 2.0, 0.5]
    assert not said


@torch.no_grad()
def test_a_threshold_is_of_its_finding(said):
    trained = built(task=Diagnosis(positive=["x"]))
    trained.network.task.calibrate(torch.tensor(3.0))
    for task, threshold in ((Diagnosis(["x"]), 3.0), (Diagnosis(["y", "z"]), 0.0)):
        model = started(trained, task=task)
        assert torch.equal(model(X), trained(X))
        assert model.network.task.threshold == threshold
    assert torch.equal(started(trained)(X), trained(X))  # a Classification takes the same layer
    assert not said


def measured(points, centre=(0.0, 0.0)):
    return DataSpec(("a",), ("a",), (), quantities=("x_m", "y_m"), centre=centre, scale=(2.0, 3.0), points=points)


@torch.no_grad()
def test_places_must_be_the_same_ones(said):
    here, there = ((0.0, 0.0), (1.0, 0.0)), ((100.0, 0.0), (101.0, 0.0))
    trained = built(measured(here), PlaceRegression())
    assert torch.equal(started(trained, measured(here), PlaceRegression())(X), trained(X))
    assert not said
    model = started(trained, measured(there), PlaceRegression())
    assert model.network.task.points.tolist() == [list(point) for point in there]
    assert "has another head, that of PlaceRegression" in said[0]


@torch.no_grad()
def test_measured_values_are_predicted_as_before():
    trained = built(measured((), (5.0, 6.0)), Regression())
    assert torch.equal(started(trained, measured((), (50.0, 60.0)), Regression())(X), trained(X))


def test_extra_state_is_no_weight():
    class Counting(nn.Linear):
        num_features = 3

        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            self.calls = state["calls"]

    model = started(built(backbone=Counting(4, 3)), backbone=Counting(4, 3))
    assert model.network.backbone.calls == 3


@torch.no_grad()
def test_adapters_are_merged():
    trained = built(finetuning=LoRA(rank=2, target_modules=["layers.0"]))
    before = trained(X)
    rounding = 1e-5 * before.abs().max()  # merging rounds each weight once; some outputs are small sums of large terms
    assert (started(trained)(X) - before).abs().max() < rounding
    again = started(trained, finetuning=LoRA(rank=2, target_modules=["layers.0"]))
    assert (again(X) - before).abs().max() < rounding  # a new adapter adds nothing yet


@pytest.mark.parametrize("before", ["joint", "adabn", "domain_specific"])
@pytest.mark.parametrize("after", ["joint", "adabn", "domain_specific"])
@torch.no_grad()
def test_of_batch_normalisation_by_domain_the_targets_layers(before, after):
    trained = built(backbone=MLP(4, batch_norm=True), batch_norm=before)
    for name, buffer in trained.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(torch.randn_like(buffer))  # the two sides differ
    model = started(trained, backbone=MLP(4, batch_norm=True), batch_norm=after)
    for role in ("source", "target"):
        assert torch.equal(model.network(X, role)[1], trained(X))


@torch.no_grad()
def test_the_bottleneck_goes_with_the_head():
    def backbone():
        net = MLP(4)
        net.bottleneck_features = 6
        return net

    trained = built(backbone=backbone())
    assert torch.equal(started(trained, backbone=backbone())(X), trained(X))


def test_losses_that_hold_on_to_the_start_hold_on_to_this_one():
    trained = built()
    model = started(trained, adaptation=[L2SP()])
    start = nn.utils.parameters_to_vector(trained.network.backbone.parameters())
    assert torch.equal(model.adaptation["l2_sp"].start.reshape(-1), start)


def test_what_cannot_be_started_from():
    trained = built()
    with pytest.raises(ConfigurationError, match="the model is built already; call it before"):
        start_from(trained, trained)
    with pytest.raises(ConfigurationError, match="is not built, so it was never trained"):
        start_from(TransferModule(MLP(4), Classification()), TransferModule(MLP(4), Classification()))
    with pytest.raises(CheckpointError, match=r"backbone MLP is not that of the model to start from, a MLP.*arguments"):
        start_from(TransferModule(MLP(4, [7]), Classification()), trained)
    named = DataSpec(("a",), ("a",), (), classes=("x", "y", "z"), input_names=("p", "q", "r", "s"))
    other = DataSpec(("a",), ("a",), (), classes=("x", "y"), input_names=("p", "q", "s", "r"))
    with pytest.raises(ConfigurationError, match="start_from: the model to start from was built for 4 named columns"):
        started(built(named), other)


def test_adaptation_without_the_source():
    """The source is learned first; then the target alone pulls the model that it left."""
    torch.manual_seed(0)
    trained = TransferModule(MLP(batch_norm=True), Classification(), optimizer=partial(Adam, lr=0.01))
    trainer(max_steps=60).fit(trained, data())
    model = TransferModule(MLP(batch_norm=True), Classification(), [BNM()], optimizer=partial(Adam, lr=0.003))
    start_from(model, trained)
    alone = data(sources=[])
    trainer(max_steps=30).fit(model, alone)
    assert model.data_spec.sources == ()
    before, after = (trainer().test(each, alone, verbose=False)[0]["test/moved/accuracy"] for each in (trained, model))
    assert 0.6 < before < after


def test_layers_of_the_sources_own_have_no_rows_to_learn_from():
    model = TransferModule(MLP(8, batch_norm=True), Classification(), [BNM()], batch_norm="domain_specific")
    with pytest.raises(ConfigurationError, match="this run has no labelled rows: set batch_norm: joint"):
        trainer().fit(model, data(sources=[]))


def test_it_is_a_name_of_the_package():
    assert tlkit.start_from is start_from
