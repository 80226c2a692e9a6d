import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.losses import MCC
from tlkit.tasks import PlaceRegression, Regression
from tlkit.types import DataSpec

SPEC = DataSpec(
    ("a", "b"),
    ("a",),
    ("b",),
    quantities=("x_m", "y_m"),
    centre=(100.0, 50.0),
    scale=(10.0, 20.0),
    points=((90.0, 50.0), (110.0, 50.0), (100.0, 90.0)),
)
Y = torch.tensor([[100.0, 50.0], [103.0, 54.0]])
OUTPUTS = torch.tensor([[130.0, 50.0], [100.0, 50.0]])  # off by (30, 0) and (-3, -4) metres


def built(task, spec=SPEC):
    task.build(4, spec)
    return task


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # standardised differences (3, 0) and (-0.3, -0.2)
        ("mse", (9 + 0.09 + 0.04) / 4),
        ("l1", (3 + 0.3 + 0.2) / 4),
        ("smooth_l1", (2.5 + 0.045 + 0.02) / 4),
        ("euclidean", (30 + 5) / 2 / 250**0.5),  # the root mean square of 10 and 20
    ],
)
def test_losses_worked_by_hand(loss, expected):
    assert built(Regression(loss)).loss(OUTPUTS, Y).item() == pytest.approx(expected, rel=1e-6)


def test_outputs_are_in_the_units_of_the_labels_and_the_units_are_in_the_state():
    task = built(Regression())
    with torch.no_grad():
        task.head.weight.zero_()
        task.head.bias.copy_(torch.tensor([1.0, -2.0]))
    assert task(torch.rand(3, 4)).tolist() == [[110.0, 10.0]] * 3
    other = built(
        Regression(), DataSpec(("a",), ("a",), (), quantities=("x_m", "y_m"), centre=(0.0, 0.0), scale=(1.0, 1.0))
    )
    other.load_state_dict(task.state_dict())
    assert other(torch.rand(1, 4)).tolist() == [[110.0, 10.0]]


def test_metrics_are_euclidean_errors_and_the_lowest_is_best():
    task = built(Regression())
    metrics = task.metrics()
    metrics.update(OUTPUTS, Y)
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx({"error_mean": 17.5, "error_median": 17.5, "error_p75": 23.75, "error_p95": 28.75})
    assert (task.selection_metric, task.selection_mode, task.label_free_score) == ("error_mean", "min", None)


def test_predictions_have_a_column_a_quantity():
    predictions = built(Regression()).predict(OUTPUTS)
    assert {name: values.tolist() for name, values in predictions.items()} == {
        "x_m": [130.0, 100.0],
        "y_m": [50.0, 50.0],
    }


def test_the_place_loss_is_cross_entropy_with_the_nearest_point_and_the_distance_of_the_mean():
    logits = torch.tensor([[0.0, 0.0, -1e9], [0.0, 5.0, 0.0]])
    y = torch.tensor([[92.0, 50.0], [110.0, 50.0]])
    p = torch.softmax(logits, 1)
    mean = p @ torch.tensor(SPEC.points)
    entropy = -(p[0, 0].log() + p[1, 1].log()) / 2
    distance = ((mean[0] - y[0]).norm() + (mean[1] - y[1]).norm()) / 2 / 250**0.5
    assert (mean[0] - y[0]).norm().item() == pytest.approx(8)
    assert built(PlaceRegression(0.0)).loss(logits, y).item() == pytest.approx(entropy.item(), rel=1e-5)
    assert built(PlaceRegression(2.0)).loss(logits, y).item() == pytest.approx(
        (entropy + 2 * distance).item(), rel=1e-5
    )


def test_places_have_probabilities_and_regression_refuses_losses_that_need_some():
    assert built(PlaceRegression()).probabilities(torch.zeros(1, 3)).tolist() == [[pytest.approx(1 / 3)] * 3]
    MCC().check(built(PlaceRegression()), SPEC)
    with pytest.raises(ConfigurationError, match="Regression"):
        MCC().check(built(Regression()), SPEC)


def test_places_survive_half_precision():
    task = built(PlaceRegression())
    with torch.autocast("cpu", torch.bfloat16):
        predictions = task.predict(torch.zeros(1, 3, dtype=torch.bfloat16))
    assert predictions["x_m"].item() == pytest.approx(100)
    assert predictions["y_m"].item() == pytest.approx(190 / 3)


def test_bad_input_is_refused():
    classes = DataSpec(("a",), ("a",), (), classes=("x", "y"))
    for task in (Regression(), PlaceRegression()):
        with pytest.raises(ConfigurationError, match=r"whose labels are measured values.*\['x', 'y'\].*Classification"):
            task.build(4, classes)
    with pytest.raises(ConfigurationError, match="unknown loss 'huber'"):
        Regression("huber")
    with pytest.raises(ConfigurationError, match="a quantity cannot be called 'index'"):
        Regression().build(4, DataSpec(("a",), ("a",), (), quantities=("index",)))
    with pytest.raises(ConfigurationError, match=r"2 to 4,096 distinct reference points.*use Regression"):
        PlaceRegression().build(4, DataSpec(("a",), ("a",), (), quantities=("x_m",)))
    with pytest.raises(ConfigurationError, match=r"distance_weight=.* is 0 or more and finite, got -1"):
        PlaceRegression(-1)
