"""What holds for every task. A new task only has to be listed in settings.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tlkit.tasks
from tests.tasks.settings import SETTINGS, WIDTH, Setting
from tlkit.tasks import Task

every_task = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def features(rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_every_public_task_is_in_the_table() -> None:
    public = {getattr(tlkit.tasks, name) for name in tlkit.tasks.__all__} - {Task}
    assert public == {setting.task for setting in SETTINGS}


@every_task
def test_the_head_is_made_for_features_and_data(setting: Setting) -> None:
    task = setting.make()
    assert task(features(5)).shape == (5, task.num_outputs)
    assert any(True for _ in task.parameters())


@every_task
def test_the_loss_is_a_mean_over_rows(setting: Setting) -> None:
    task = setting.make().double()
    outputs, y = task(features(9, torch.float64)), setting.labels(9)
    rows = torch.stack([task.loss(outputs[row : row + 1], y[row : row + 1]) for row in range(9)])
    torch.testing.assert_close(task.loss(outputs, y), rows.mean(), rtol=1e-12, atol=0)


@every_task
def test_gradcheck_in_float64_and_the_gradient_reaches_head_and_features(setting: Setting) -> None:
    task, x, y = setting.make().double(), features(4, torch.float64).requires_grad_(), setting.labels(4)
    assert torch.autograd.gradcheck(lambda x: task.loss(task(x), y), x)
    task.loss(task(x), y).backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in [x, *task.parameters()])


@every_task
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_stays_near_float32(setting: Setting, dtype: torch.dtype) -> None:
    task, x, y = setting.make(), features(8), setting.labels(8)
    exact = task.loss(task(x), y)
    with torch.autocast("cpu", dtype):
        rounded = task.loss(task(x), y)
    torch.testing.assert_close(rounded.float(), exact, rtol=2e-2, atol=2e-2)


@every_task
def test_metrics_are_over_rows_not_a_mean_of_batches(setting: Setting) -> None:
    task = setting.make()
    outputs, y = task(features(23)).detach(), setting.labels(23)
    whole, parted = task.metrics(), task.metrics()
    whole.update(outputs, y)
    for start, end in ((0, 16), (16, 23)):
        parted.update(outputs[start:end], y[start:end])
    torch.testing.assert_close(parted.compute(), whole.compute())
    assert task.selection_metric in whole.compute()
    assert task.selection_mode in ("max", "min")


@every_task
def test_label_free_metrics_take_outputs_alone(setting: Setting) -> None:
    task = setting.make()
    metrics = task.label_free_metrics()
    if metrics is not None:
        metrics.update(task(features(7)).detach())
        assert all(value.isfinite() for value in metrics.compute().values())
        assert not set(metrics.compute()) & set(task.metrics())  # they share a prefix in logs


@every_task
def test_predictions_have_one_row_a_sample(setting: Setting) -> None:
    task = setting.make()
    outputs = task(features(5)).detach()
    assert all(len(value) == 5 for value in task.predict(outputs).values())
    if task.has_probabilities:
        probabilities = task.probabilities(outputs)
        assert probabilities.min() >= 0
        torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


@every_task
def test_state_dict_round_trip(setting: Setting) -> None:
    first, second = setting.make(), setting.make()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(features(3)), second(features(3)))
