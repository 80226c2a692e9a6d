import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from tlkit.errors import ConfigurationError
from tlkit.tasks import Classification, Task
from tlkit.types import DataSpec

SPEC = DataSpec(("a", "b"), ("a",), ("b",), classes=("x", "y", "z"))


def built(**kwargs):
    task = Classification(**kwargs)
    task.build(4, SPEC)
    return task


def test_loss_and_metrics_agree_with_scikit_learn():
    task = built()
    generator = torch.Generator().manual_seed(0)
    outputs, y = torch.randn(90, 3, generator=generator), torch.randint(0, 3, (90,), generator=generator)
    assert task.loss(outputs, y).item() == pytest.approx(log_loss(y, outputs.softmax(1).numpy()), abs=1e-5)
    metrics = task.metrics()
    for part in range(0, 90, 40):  # uneven last batch: metrics are over rows, not a mean of batches
        metrics.update(outputs[part : part + 40], y[part : part + 40])
    values = metrics.compute()
    assert values["accuracy"].item() == pytest.approx(accuracy_score(y, outputs.argmax(1)))
    assert values["macro_f1"].item() == pytest.approx(f1_score(y, outputs.argmax(1), average="macro"), abs=1e-6)
    assert task.selection_metric in values


def test_predictions_are_probabilities_and_their_argmax():
    task = built()
    predictions = task.predict(torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.bfloat16))
    assert predictions["prediction"].tolist() == [1]
    assert predictions["probabilities"].sum().item() == pytest.approx(1)


def test_bad_input_is_refused():
    with pytest.raises(ConfigurationError, match=r"label_smoothing must be in \[0, 1\), got 1.5"):
        Classification(label_smoothing=1.5)
    with pytest.raises(ConfigurationError, match="at least two classes"):
        Classification().build(4, DataSpec(("a",), ("a",), (), classes=("only",)))


def test_a_task_without_a_method_says_which():
    with pytest.raises(TypeError, match="Task must define metrics"):
        Task().metrics()
    with pytest.raises(ConfigurationError, match="has no probabilities"):
        Task().probabilities(torch.zeros(1))
