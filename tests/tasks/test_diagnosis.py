import copy
import dataclasses
import pickle

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import ModelSelection
from tlkit.errors import ConfigurationError
from tlkit.metrics.diagnosis import log_odds
from tlkit.tasks import Classification, Diagnosis
from tlkit.types import DataSpec

SPEC = DataSpec(("a", "b"), ("a",), ("b",), classes=("cnv", "dme", "drusen", "normal"), class_counts=(10, 20, 0, 30))


def built(task=Diagnosis, spec=SPEC, **kwargs):
    torch.manual_seed(0)
    made = task(**kwargs)
    made.build(4, spec)
    return made


def test_balanced_weights_have_mean_one_over_the_training_rows():
    task = built(Classification, class_weights="balanced")
    assert task.row_weights.tolist() == [2.0, 1.0, 0.0, pytest.approx(2 / 3)]
    counts = torch.tensor(SPEC.class_counts, dtype=torch.float32)
    assert (counts * task.row_weights).sum() / counts.sum() == pytest.approx(1)
    assert len(set((counts * task.row_weights)[counts > 0].tolist())) == 1  # every class weighs the same
    assert "row_weights" in task.state_dict()
    assert "row_weights" not in built(Classification).state_dict()


def test_the_balanced_loss_is_the_mean_of_weighted_rows():
    task = built(Classification, class_weights="balanced")
    outputs, y = torch.randn(5, 4), torch.tensor([0, 1, 1, 3, 3])
    rows = -outputs.log_softmax(1)[torch.arange(5), y]
    torch.testing.assert_close(task.loss(outputs, y), (rows * torch.tensor([2.0, 1.0, 1.0, 2 / 3, 2 / 3])).mean())


def test_a_run_without_sources_says_that_nothing_chooses_the_threshold(caplog):
    built(positive=["cnv"])
    assert "threshold" not in caplog.text
    built(positive=["cnv"], spec=dataclasses.replace(SPEC, sources=(), targets=("a", "b")))
    assert "there are none: whatever at_sensitivity says, it stays as it is" in caplog.text


def test_the_threshold_is_calibrated_saved_and_decides():
    task = built(positive=["cnv", "dme"])
    outputs = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    score = log_odds(outputs, [0, 1])
    assert score[0] > 0 > score[1]
    assert task.predict(outputs)["finding"].tolist() == [1, 0]
    task.calibrate(score[1])
    assert task.predict(outputs)["finding"].tolist() == [1, 1]  # a score at the threshold is found
    task.calibrate(torch.tensor(torch.nan))  # a validation without a row of the finding
    assert task.threshold == score[1]
    other = built(positive=["cnv", "dme"])
    other.load_state_dict(task.state_dict())
    assert other.threshold == score[1]
    predicted = task.predict(outputs)
    probability = outputs.softmax(1)[:, :2].sum(1)
    torch.testing.assert_close(predicted["finding_probability"], probability)


def test_a_copy_has_a_threshold_of_its_own_and_a_task_can_be_pickled():
    task = built(positive=["cnv"])
    task.kept = task.metrics()
    other = copy.deepcopy(task)
    other.calibrate(torch.tensor(9.0))
    assert other.kept["diagnosis"].threshold() == 9
    assert task.kept["diagnosis"].threshold() == 0
    assert pickle.loads(pickle.dumps(other)).kept["diagnosis"].threshold() == 9


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")
def test_averaged_weights_keep_the_threshold_that_was_chosen_with_them(tmp_path):
    """They are validated, and out of the module again by the time the threshold is written."""
    torch.manual_seed(0)
    data = ShiftedBlobs(["still"])
    positive = [data.classes[-1]]
    model = TransferModule(MLP(), Diagnosis(positive))
    average = EMAWeightAveraging(decay=0.9)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[average, ModelSelection(dirpath=tmp_path)],
    )  # fmt: skip
    trainer.fit(model, data)
    chosen = trainer.callback_metrics["val/still/threshold"]
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["network.task.threshold"]
    torch.testing.assert_close(kept.sigmoid(), chosen)


def test_sensitivity_follows_the_threshold_and_accuracy_does_not():
    task = built(positive=["normal"])
    outputs, y = torch.randn(40, 4), torch.arange(40) % 4
    values = []
    for threshold in (-100.0, 100.0):
        task.calibrate(torch.tensor(threshold))
        metrics = task.metrics()
        metrics.update(outputs, y)
        values.append(metrics.compute())
    assert (values[0]["sensitivity"], values[0]["specificity"]) == (1, 0)
    assert (values[1]["sensitivity"], values[1]["specificity"]) == (0, 1)
    for name in ("accuracy", "macro_f1", "auroc"):
        assert values[0][name] == values[1][name]
    assert set(task.batch_metrics()) == {"accuracy", "macro_f1"}


def test_what_is_refused():
    with pytest.raises(ConfigurationError, match="at_sensitivity lies above 0"):
        Diagnosis(["x"], at_sensitivity=1.5)
    with pytest.raises(ConfigurationError, match="class_weights must be 'none' or 'balanced', got 'some'"):
        Classification(class_weights="some")
    with pytest.raises(ConfigurationError, match="unknown class 'nomal': did you mean 'normal'"):
        built(positive=["nomal"])
    with pytest.raises(ConfigurationError, match="got none"):
        built(positive=[])
    with pytest.raises(ConfigurationError, match="got all of them"):
        built(positive=list(SPEC.classes))
    with pytest.raises(ConfigurationError, match="does not know it"):
        built(Classification, DataSpec(("a",), ("a",), (), classes=("x", "y")), class_weights="balanced")


def test_a_run_chooses_the_threshold_on_source_validation_alone():
    """Through the trainer: intervals come at the test alone, and neither target nor test rows move the threshold."""
    thresholds = []
    for targets in ([], ["moved"]):
        L.seed_everything(1)
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=30,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = ShiftedBlobs(["still"], targets, batch_size=24)
        model = TransferModule(MLP(), Diagnosis(["blue"], at_sensitivity=0.9, class_weights="balanced"))
        trainer.fit(model, data)
        validated = dict(trainer.callback_metrics)
        assert validated["val/still/sensitivity"] >= 0.9
        assert not any("_low" in name for name in validated)
        before = model.network.task.threshold.item()
        assert before != 0
        trainer.test(model, data, verbose=False)
        assert model.network.task.threshold.item() == before
        tested = trainer.callback_metrics
        for name in ("accuracy", "auroc", "sensitivity", "specificity"):
            low, value, high = (tested[f"test/still/{name}{end}"] for end in ("_low", "", "_high"))
            assert low <= value <= high
        thresholds.append(before)
    assert thresholds[0] == thresholds[1]
