import lightning as L
import pytest
import torch

from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.errors import ConfigurationError
from tlkit.functional import hamming_distance, pack_codes
from tlkit.losses import HashPairwise
from tlkit.tasks import Hashing
from tlkit.types import DataSpec


def built(classes, **kwargs):
    task = Hashing(**kwargs)
    task.build(4, DataSpec(("a", "b"), ("a",), ("b",), classes=tuple(map(str, range(classes)))))
    return task


@pytest.mark.parametrize(("classes", "bits"), [(7, 64), (63, 64), (64, 64), (2, 8)])
def test_hadamard_centres_are_orthogonal_signs(classes, bits):
    centres = built(classes, bits=bits).centres
    assert set(centres.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(centres @ centres.T, bits * torch.eye(classes))


def test_more_classes_than_bits_take_the_negative_half_too():
    centres = built(100, bits=64).centres
    assert len(centres.unique(dim=0)) == 100
    products = centres @ centres.T - 64 * torch.eye(100)
    assert products.max() == 0  # at least half of the bits differ


@pytest.mark.parametrize(("classes", "bits"), [(7, 48), (65, 12), (200, 64)])
def test_other_centres_are_drawn_far_apart(classes, bits):
    centres = built(classes, bits=bits).centres
    packed = pack_codes(centres)
    distance = hamming_distance(packed, packed).fill_diagonal_(bits)
    assert distance.min() >= bits // 6
    assert len(centres.unique(dim=0)) == classes


def test_the_loss_by_hand():
    task = built(2, bits=8, scale=2.0, quantization=0.5)
    task.centres = torch.tensor([[1.0] * 8, [1.0] * 4 + [-1.0] * 4])
    outputs = torch.tensor([[0.5] * 8])  # similarities 0.5 and 0
    expected = torch.log1p(torch.tensor(-1.0).exp()) + 0.5 * 0.25
    torch.testing.assert_close(task.loss(outputs, torch.tensor([0])), expected)
    torch.testing.assert_close(task.probabilities(outputs), torch.tensor([[1.0, 0.0]]).softmax(1))


def test_perfect_codes_have_no_quantisation_and_temperature_acts_on_logits():
    task = built(3, bits=16, scale=10.0)
    y = torch.tensor([0, 1, 2])
    certain = torch.log1p(2 * torch.tensor(-10.0).exp())
    torch.testing.assert_close(task.loss(task.centres[y], y), certain, atol=1e-6, rtol=0)
    outputs = torch.randn(5, 16).tanh()
    torch.testing.assert_close(task.logits(outputs / 2.5), task.logits(outputs) / 2.5)  # what MCC relies on


def test_predictions_are_the_nearest_centre_and_packed_bits():
    task = built(4, bits=20)
    outputs = 0.3 * task.centres[[2, 0]]
    predictions = task.predict(outputs.bfloat16())
    assert predictions["prediction"].tolist() == [2, 0]
    assert predictions["code"].dtype == torch.uint8
    assert torch.equal(predictions["code"], pack_codes(task.centres[[2, 0]]))


def test_it_is_searched_in_what_it_was_referred_to_and_checkpoints_do_not_hold_it():
    task = built(2, bits=8)
    with pytest.raises(RuntimeError, match=r"no data base yet: call refer\(outputs, y\)"):
        task.metrics().update(torch.zeros(1, 8), torch.tensor([0]))
    before = set(task.state_dict())
    task.refer(task.centres, torch.tensor([0, 1]))
    assert set(task.state_dict()) == before == {"code.weight", "code.bias", "centres"}
    metrics = task.metrics()
    metrics.update(task.centres, torch.tensor([0, 1]))
    values = metrics.compute()
    assert set(values) == {"accuracy", "map", "map_at_100", "precision_radius_2"}
    assert all(value == 1 for value in values.values())
    task.refer(task.centres.flip(0), torch.tensor([0, 1]))  # metrics that were made before look into the new one
    metrics.reset()
    metrics.update(task.centres, torch.tensor([0, 1]))
    assert metrics.compute()["map"] == 0.5
    assert set(task.batch_metrics()) == {"accuracy"}


def test_what_is_refused():
    with pytest.raises(ConfigurationError, match=r"Hashing\(bits=...\) must be at least 8, got 4"):
        Hashing(bits=4)
    with pytest.raises(ConfigurationError, match=r"Hashing\(quantization=...\) must be 0 or more"):
        Hashing(quantization=-1.0)
    with pytest.raises(ConfigurationError, match="at least two classes"):
        built(1)
    with pytest.raises(ConfigurationError, match="too short to tell 300 classes apart"):
        built(300, bits=8)
    with pytest.raises(ConfigurationError, match=r"name one in data\.sources"):
        Hashing().build(4, DataSpec(("b",), (), ("b",), classes=("x", "y")))


def test_a_run_searches_the_sources_rows_with_the_targets():
    """Trained with the trainer: queries of the target find rows of the source, better than before training."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=60,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ShiftedBlobs(["still"], ["moved"], batch_size=24)
    model = TransferModule(MLP(), Hashing(bits=16, k=20), [HashPairwise()])
    trainer.validate(model, data, verbose=False)
    before = dict(trainer.callback_metrics)
    trainer.fit(model, data)
    trainer.validate(model, data, verbose=False)
    after = dict(trainer.callback_metrics)
    trainer.test(model, data, verbose=False)
    assert after["selection/source_accuracy"] > max(0.9, before["selection/source_accuracy"])
    assert after["val/still/map"] > max(0.9, before["val/still/map"])
    assert len(model.network.task.database()[1]) == len(data.splits["still"]["reference"])
    assert {"test/moved/map", "test/moved/map_at_20", "test/moved/precision_radius_2"} <= set(trainer.callback_metrics)
