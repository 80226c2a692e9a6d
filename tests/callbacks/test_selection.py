"""Which checkpoints are kept: real Trainer runs of a module that logs the scores a test gives it."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import ModelSelection
from tlkit.errors import ConfigurationError
from tlkit.losses import DANN, MMD, AdaptationLoss
from tlkit.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6 on torch 2.15

SCORE = "selection/source_accuracy"


class Scripted(L.LightningModule):
    """One weight that counts steps, and a list of scores, one a validation."""

    def __init__(self, scores, key=SCORE, uses_target=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scores, self.key, self.uses_target = scores, key, uses_target

    def training_step(self, batch, batch_idx):
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            number = self.trainer.global_step // 2 - 1
            self.log(self.key, self.scores[number])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Rows:
    """An endless loader that goes on where it stood."""

    def __init__(self):
        self.position = 0

    def __len__(self):
        return 100

    def __iter__(self):
        while True:
            self.position += 1
            yield torch.zeros(2, 1)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def run(folder, module, selection=None, steps=None, callbacks=(), validate=True, **options):
    selection = selection or ModelSelection()
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=steps or 2 * len(module.scores),
        val_check_interval=2,
        check_val_every_n_epoch=None,
        limit_val_batches=1 if validate else 0,
        num_sanity_val_steps=1,
        accelerator="cpu",
        logger=False,
        callbacks=[selection, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Rows(), DataLoader(torch.zeros(2, 1)), weights_only=True, **options)
    return selection, trainer


def weight(folder, name):
    checkpoint = torch.load(Path(folder) / "checkpoints" / f"{name}.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["weight"].item() == checkpoint["global_step"]
    return checkpoint["global_step"]


def test_best_and_last_are_kept_under_fixed_names(tmp_path):
    selection, trainer = run(tmp_path, Scripted([0.5, 0.75, 0.25]))
    assert (weight(tmp_path, "best"), weight(tmp_path, "last")) == (4, 6)
    assert selection.selection == {"monitor": SCORE, "step": 4, "uses_target_labels": False, "score": 0.75}
    assert sorted(each.name for each in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "checkpoints" / "best.ckpt")
    json.dumps(selection.selection)


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ([0.5, 0.5, 0.25], "max", 4),  # of equal scores the later
        ([0.5, 0.25, 0.25, 0.75], "min", 6),
        ([float("nan"), 0.25, float("nan")], "max", 4),
        ([float("nan"), 0.25, float("inf")], "min", 4),
        ([float("nan"), float("nan")], "max", 4),
    ],
)
def test_which_score_wins(tmp_path, scores, mode, best):
    selection, _ = run(tmp_path, Scripted(scores), ModelSelection(mode=mode))
    assert weight(tmp_path, "best") == selection.selection["step"] == best
    json.dumps(selection.selection, allow_nan=False)


def test_a_score_that_is_no_number_is_told_once(tmp_path, caplog):
    with caplog.at_level("INFO"):
        run(tmp_path, Scripted([float("nan"), 0.25, float("nan")]))
    assert caplog.text.count(f"{SCORE} is nan at step 2: a checkpoint with any number is better") == 1
    assert caplog.text.count(f"{SCORE} is nan") == 1


def test_a_named_score_is_watched_again_after_a_fit_without_validation(tmp_path):
    selection = ModelSelection(SCORE)
    run(tmp_path, Scripted([0.5]), selection, steps=2, validate=False)
    assert selection.selection["monitor"] is None
    run(tmp_path, Scripted([0.5, 0.75]), selection)
    assert selection.selection["monitor"] == SCORE


def test_auto_follows_what_the_run_does(tmp_path):
    adapts = Scripted([0.5], key="selection/mutual_information", uses_target=True)
    assert run(tmp_path, adapts)[0].selection["monitor"] == "selection/mutual_information"
    assert run(tmp_path / "b", Scripted([0.5]))[0].selection["monitor"] == SCORE


class Distance(Classification):
    """A task whose metric is better the lower it is, without a label-free score."""

    selection_metric, selection_mode, label_free_score = "surprise", "min", None


def test_auto_follows_the_task(tmp_path):
    scripted = Scripted([3.0, 1.0, 2.0], key="selection/source_surprise", uses_target=True)
    scripted.network = torch.nn.Module()
    scripted.network.task = Distance()
    selection, _ = run(tmp_path, scripted)
    assert selection.selection == {
        "monitor": "selection/source_surprise",
        "step": 4,
        "uses_target_labels": False,
        "score": 1.0,
    }


def test_a_score_from_target_labels_is_taken_only_when_named_and_is_confessed(tmp_path):
    key = "oracle/sketch/accuracy"
    selection, _ = run(tmp_path, Scripted([0.5], key), ModelSelection(key))
    assert selection.selection == {"monitor": key, "step": 2, "uses_target_labels": True, "score": 0.5}
    with pytest.raises(ConfigurationError, match="unknown score"):
        run(tmp_path / "b", Scripted([0.5], key))


def test_a_score_that_is_not_logged_is_named_at_the_first_validation(tmp_path):
    with pytest.raises(ConfigurationError, match=r"did you mean 'selection/source_accuracy'\? Allowed: selection/sou"):
        run(tmp_path, Scripted([0.5, 0.5]), ModelSelection("selection/source_acuracy", mode="max"))
    assert not (tmp_path / "checkpoints").exists()


def test_the_direction_of_an_unknown_score_is_asked_for():
    with pytest.raises(ConfigurationError, match="set mode to 'max' or 'min'"):
        ModelSelection("val/mnist/my_score")
    assert ModelSelection("val/mnist/my_score", mode="min").mode == "min"
    assert ModelSelection("val/mnist/loss").mode == "min"
    assert ModelSelection("val/mnist/accuracy").mode == "max"
    assert ModelSelection("oracle/sketch/map_at_100").mode == ModelSelection("val/a/precision_radius_2").mode == "max"


@pytest.mark.parametrize("every", [0, -1])
def test_every_n_steps_is_positive(every):
    with pytest.raises(ConfigurationError, match="at least 1"):
        ModelSelection(every_n_steps=every)


def test_without_validation_the_best_is_the_last_and_it_says_so(tmp_path, caplog):
    with caplog.at_level("INFO"):
        selection, _ = run(tmp_path, Scripted([]), steps=3, validate=False)
    assert (weight(tmp_path, "best"), weight(tmp_path, "last")) == (3, 3)
    assert selection.selection == {"monitor": None, "step": 3, "uses_target_labels": False, "score": None}
    assert "nothing was validated" in caplog.text


def test_the_last_step_is_saved_when_no_validation_falls_on_it(tmp_path):
    run(tmp_path, Scripted([0.5, 0.25]), steps=5)
    assert (weight(tmp_path, "best"), weight(tmp_path, "last")) == (2, 5)


class Killed(L.Callback):
    """A run that dies before its next step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize(("every", "resumes_at"), [(None, 6), (1, 7)])
def test_a_killed_run_resumes_with_its_best(tmp_path, every, resumes_at):
    scores = [0.5, 0.75, 0.25, 0.625]
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, Scripted(scores), ModelSelection(every_n_steps=every), callbacks=[Killed(7)])
    assert (weight(tmp_path, "best"), weight(tmp_path, "last")) == (4, resumes_at)
    last = tmp_path / "checkpoints" / "last.ckpt"
    selection, trainer = run(tmp_path, Scripted(scores), ModelSelection(every_n_steps=every), ckpt_path=last)
    assert trainer.global_step == 8
    assert (weight(tmp_path, "best"), weight(tmp_path, "last")) == (4, 8)
    assert selection.selection == {"monitor": SCORE, "step": 4, "uses_target_labels": False, "score": 0.75}
    better, _ = run(tmp_path, Scripted([*scores, 0.875]), ckpt_path=last)
    assert better.selection["step"] == weight(tmp_path, "best") == 10


def test_resume_by_another_score_is_refused(tmp_path):
    run(tmp_path, Scripted([0.5]))
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigurationError, match="cannot be compared"):
        run(tmp_path, Scripted([0.5, 0.5]), ModelSelection("val/a/accuracy"), ckpt_path=last)


def test_a_resume_in_another_folder_searches_the_best_again(tmp_path, caplog):
    run(tmp_path / "a", Scripted([0.75]))
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    selection, _ = run(tmp_path / "b", Scripted([0.75, 0.5]), ckpt_path=last)
    assert selection.selection["step"] == weight(tmp_path / "b", "best") == 4
    assert f"best.ckpt, of step 2, is not in {tmp_path / 'b' / 'checkpoints'}" in caplog.text


def test_a_best_that_is_lost_where_nothing_is_left_to_train_is_the_last(tmp_path, caplog):
    run(tmp_path, Scripted([0.75, 0.5]))
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    last = tmp_path / "checkpoints" / "last.ckpt"
    selection, _ = run(tmp_path, Scripted([0.75, 0.5]), ckpt_path=last)
    assert weight(tmp_path, "best") == 4
    assert selection.selection == {"monitor": None, "step": 4, "uses_target_labels": False, "score": None}
    assert "nothing was validated since best.ckpt was lost: best.ckpt is the last checkpoint" in caplog.text


def test_a_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr("tlkit.callbacks.selection.os.link", no_links)
    run(tmp_path, Scripted([0.5, 0.25]))
    assert (weight(tmp_path, "best"), weight(tmp_path, "last")) == (2, 4)


def test_a_real_run_selects_without_target_labels(tmp_path):
    L.seed_everything(0)
    selection = ModelSelection()
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=12,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        logger=False,
        callbacks=[selection],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = TransferModule(MLP(), Classification(), [MMD()])
    trainer.fit(model, datamodule=ShiftedBlobs(["still"], ["moved"]))
    assert selection.selection["monitor"] == "selection/mutual_information"
    assert selection.selection["step"] in (4, 8, 12)
    trainer.test(model, datamodule=trainer.datamodule, ckpt_path="best", weights_only=True, verbose=False)


class OnTheSource(AdaptationLoss):
    """A loss that asks for no target."""

    needs_target = False

    def forward(self, source, target):
        return source.features.pow(2).mean()


def fit_blobs(folder, adaptation, selection, callbacks=(), targets=(), **options):
    L.seed_everything(0)
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        callbacks=[selection, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        **{key: value for key, value in options.items() if key != "ckpt_path"},
    )
    data = ShiftedBlobs(["still"], list(targets))
    module = TransferModule(MLP(), Classification(), adaptation)
    trainer.fit(module, data, ckpt_path=options.get("ckpt_path"), weights_only=True)
    return trainer


def test_auto_watches_the_source_when_a_loss_is_there_but_no_target(tmp_path):
    selection = ModelSelection()
    fit_blobs(tmp_path, [OnTheSource()], selection, max_epochs=1)
    assert selection.selection["monitor"] == "selection/source_accuracy"


def test_gradients_that_wait_for_a_step_are_never_saved_around(tmp_path):
    def watched():
        selection, batches = ModelSelection(every_n_steps=1), []
        save = selection._save
        selection._save = lambda trainer, best: (
            batches.append(trainer.fit_loop.total_batch_idx + 1),
            save(trainer, best),
        )
        return selection, batches

    options = {"limit_val_batches": 0, "accumulate_grad_batches": 3, "targets": ["moved"]}
    selection, _ = watched()
    fit_blobs(tmp_path, [DANN()], selection, max_steps=1, **options)
    selection, batches = watched()
    fit_blobs(tmp_path, [DANN()], selection, max_steps=2, **options, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert set(batches) == {6}  # not after batches 4 and 5, where one step had been made as in the checkpoint
