"""Faults that are made to happen: each ends in words, the last good checkpoint is whole, and the run can go on."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from torch.utils.data import Dataset, TensorDataset

from tests.data.settings import image_folders
from tests.ranks import free_port
from tests.shift import ShiftedBlobs
from tlkit.cli.faults import in_words
from tlkit.cli.main import main
from tlkit.losses import AdaptationLoss
from tlkit.schedules import Schedule

ROOT = Path(__file__).resolve().parents[2]
HERE = f"{__name__}."
STEPS = 12


class Spoiled(AdaptationLoss):
    """Zero, until ``step``; then infinite, or zero with a gradient that is not a number."""

    def __init__(self, step: int = 7, gradient: bool = False, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        self.step_number, self.gradient = step, gradient

    def forward(self, source, target):
        zero = source.features.sum() * 0
        if self.progress * STEPS < self.step_number - 1.5:
            return zero
        return zero.sqrt() if self.gradient else zero + torch.inf


class Deadly(Dataset):
    """Rows of which one kills the process that reads it."""

    def __init__(self, data: Dataset, row: int) -> None:
        self.data, self.row = data, row

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        if row == self.row:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.data[row]


class DeadlyBlobs(ShiftedBlobs):
    """Blobs whose training kills a worker of the loader in the second pass over the target."""

    def dataset(self, domain, split):
        data: TensorDataset = super().dataset(domain, split)
        return Deadly(data, 3 if domain == "moved" and split == "train" else -1)


class Slow(L.Callback):
    """Steps that can be aimed at."""

    def on_train_batch_end(self, trainer, *_):
        time.sleep(0.2)


class Remove(L.Callback):
    """Take the images of a folder away once two epochs have been trained."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer, *_):
        if trainer.current_epoch == 1:
            for path in Path(self.folder).iterdir():
                path.unlink()


@pytest.fixture
def fit(tmp_path, capsys):
    """Return what runs `tlkit fit` on a recipe of blobs with some changes, and returns its status and messages."""

    def run(*words, model=None, data="tests.shift.ShiftedBlobs", callbacks=(), **arguments):
        recipe = {
            "seed_everything": 1,
            "model": {
                "backbone": "tests.shift.MLP",
                "task": "Classification",
                "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.01, "momentum": 0.9}},
                **(model or {"adaptation": ["MMD"]}),
            },
            "data": {
                "class_path": data,
                "init_args": {"sources": ["still"], "targets": ["moved"], "batch_size": 8, **arguments},
            },
            "trainer": {
                "accelerator": "cpu",
                "max_steps": STEPS,
                "val_check_interval": 6,
                "check_val_every_n_epoch": None,
                "log_every_n_steps": 4,
                "callbacks": [{"class_path": "ModelSelection", "init_args": {"every_n_steps": 1}}, *callbacks],
            },
            "runs": str(tmp_path / "runs"),
        }
        if words[:1] != ("--resume",):
            (tmp_path / "blobs.yaml").write_text(yaml.safe_dump(recipe))
            words = ("--config", str(tmp_path / "blobs.yaml"), "--run_id=r", *words)
        status = main(["fit", *map(str, words)])
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "blobs" / "r"


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def finite(checkpoint):
    return all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def half_done(fit, folder, steps=5):
    """Train some steps, so that there is a good checkpoint, and return its bytes."""
    assert fit(f"--trainer.max_steps={steps}", model={"adaptation": ["MMD"]})[0] == 0
    (folder / "summary.json").unlink()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["trainer"]["max_steps"] = STEPS
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return (folder / "checkpoints" / "last.ckpt").read_bytes()


def test_an_infinite_loss_names_its_step_and_its_term(fit, folder):
    status, errors = fit(model={"adaptation": [{"class_path": HERE + "Spoiled"}]})
    assert status == 1
    assert "the loss is inf at step 7: train/spoiled is not finite (train/task " in errors
    assert f"The last checkpoint of before is {folder / 'checkpoints' / 'last.ckpt'}" in errors
    assert "Traceback" not in errors
    assert last(folder)["global_step"] == 6
    assert finite(last(folder))
    assert (folder / "metrics.csv").read_text().count("\n") > 2


def test_without_a_checkpoint_every_step_the_first_bad_step_is_named_too(fit, folder):
    status, errors = fit(
        "--trainer.callbacks=[]", "--trainer.log_every_n_steps=12",
        model={"adaptation": [{"class_path": HERE + "Spoiled", "init_args": {"step": 9}}]},
    )  # fmt: skip
    assert (status, "the loss is inf at step 9: train/spoiled" in errors) == (1, True)
    assert last(folder)["global_step"] == 6  # the validation before; that of step 12 did not happen


def test_a_gradient_that_is_not_finite_is_found_before_its_weights_are_saved(fit, folder):
    spoiled = {"class_path": HERE + "Spoiled", "init_args": {"gradient": True}}
    status, errors = fit(model={"adaptation": [spoiled]})
    assert status == 1
    assert "is not finite after step 7, whose loss was finite" in errors
    assert last(folder)["global_step"] == 6
    assert finite(last(folder))


@contextmanager
def largest_file(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_whole_leaves_the_one_of_before(fit, folder, tmp_path):
    before = half_done(fit, folder)
    with largest_file(len(before) // 2):
        status, errors = fit("--resume", folder)
    assert status == 1
    assert f"the checkpoint {folder / 'checkpoints' / 'last.ckpt'} cannot be written: File too large" in errors
    assert f"Then go on with: tlkit fit --resume {folder}" in errors
    assert "Traceback" not in errors
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert fit("--resume", folder)[0] == 0
    assert last(folder)["global_step"] == STEPS


def mounted(kind, source, target, flags=0, options=""):
    """Mount a file system as `mount` does; skip the test where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode()):
        pytest.skip(f"cannot mount here: {os.strerror(ctypes.get_errno())}")
    return lambda: libc.umount2(os.fsencode(target), 2)


def test_a_full_disk(fit, folder, tmp_path):
    (tmp_path / "runs").mkdir()
    unmount = mounted("tmpfs", "tmpfs", tmp_path / "runs", options="size=400k")
    try:
        before = half_done(fit, folder)
        free = os.statvfs(tmp_path / "runs")
        (tmp_path / "runs" / "full").write_bytes(bytes(free.f_bavail * free.f_bsize - 8192))
        status, errors = fit("--resume", folder)
        assert status == 1
        assert "No space left on device" in errors
        assert "Make room" in errors
        assert f"go on with: tlkit fit --resume {folder}" in errors
        assert "Traceback" not in errors
        assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
        (tmp_path / "runs" / "full").unlink()
        assert fit("--resume", folder)[0] == 0
    finally:
        unmount()


def test_a_folder_that_became_read_only(fit, folder, tmp_path):
    before = half_done(fit, folder)
    bind, remount_read_only = 4096, 4096 | 32 | 1
    unmount = mounted("none", tmp_path / "runs", tmp_path / "runs", bind)
    try:
        mounted("none", "none", tmp_path / "runs", remount_read_only)
        status, errors = fit("--resume", folder)
        assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
    finally:
        unmount()
    assert status == 1
    assert "Read-only file system. Make room, or make the folder writable" in errors
    assert "Traceback" not in errors
    assert fit("--resume", folder)[0] == 0


def test_something_in_the_way_of_a_checkpoint(fit, folder):
    half_done(fit, folder)
    (folder / "checkpoints" / "last.ckpt.part").mkdir()
    (folder / "checkpoints" / "last.ckpt.part" / "mine").touch()
    status, errors = fit("--resume", folder)
    assert (status, "last.ckpt cannot be written: Is a directory" in errors) == (1, True)


def test_a_part_that_a_kill_left_is_not_written_into(fit, folder):
    """Killed between the two renames, last.ckpt.part is a second name of best.ckpt."""
    half_done(fit, folder)
    best = folder / "checkpoints" / "best.ckpt"
    os.link(best, folder / "checkpoints" / "last.ckpt.part")
    before = best.read_bytes()
    with best.open("rb") as open_file:
        assert fit("--resume", folder)[0] == 0
        assert open_file.read() == before  # the file that had the name, whatever has it now


def test_a_cut_off_checkpoint(fit, folder, capsys):
    whole = half_done(fit, folder)
    for name in ("last", "best"):
        (folder / "checkpoints" / f"{name}.ckpt").write_bytes(whole[:-100])
    status, errors = fit("--resume", folder)
    assert status == 2
    assert f"{folder / 'checkpoints' / 'last.ckpt'} cannot be read: it is not a checkpoint, is damaged" in errors
    assert "best.ckpt" in errors
    assert main(["test", "--config", str(folder / "config.yaml")]) == 2
    assert "best.ckpt cannot be read" in capsys.readouterr().err


def test_a_worker_that_dies(fit, folder):
    status, errors = fit(data=HERE + "DeadlyBlobs", num_workers=1)
    assert status == 1
    assert "a worker process of the data loader (pid " in errors
    assert "Lower data.num_workers" in errors
    assert "Traceback" not in errors


def test_a_file_that_vanishes_between_epochs(fit, folder, tmp_path):
    (tmp_path / "pictures").mkdir()
    image_folders(tmp_path / "pictures")
    remove = {"class_path": HERE + "Remove", "init_args": {"folder": str(tmp_path / "pictures" / "photo" / "cat")}}
    net = {"class_path": "ConvNet", "init_args": {"in_channels": 3, "image_size": 16}}
    status, errors = fit(
        "--trainer.log_every_n_steps=3", model={"backbone": net}, data="ImageFolderDomains", callbacks=[remove],
        root=str(tmp_path / "pictures"), sources=["photo"], targets=[], image_size=16, cache=False,
    )  # fmt: skip
    assert status == 2
    assert "cannot read the image" in errors
    assert "No such file" in errors
    assert f"go on with: tlkit fit --resume {folder}" in errors
    assert finite(last(folder))
    assert (folder / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "the GPU's memory ran out"),
        (MemoryError(), "the memory ran out"),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), "data loader (pid 12, 13) died"),
        (OSError(28, "No space left on device", "a/metrics.csv"), "a/metrics.csv cannot be written or read: No space"),
        (RuntimeError("a bug"), None),
        (FileNotFoundError(2, "No such file", "x"), None),
    ],
)
def test_the_words_of_faults_that_cannot_be_made_here(error, message):
    found = in_words(error)
    assert found is None if message is None else message in str(found)


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("launcher", "victim"),
    [
        pytest.param("torchrun's variables", 1),
        pytest.param("torchrun's variables", 0, marks=pytest.mark.slow),
        pytest.param("trainer.devices", 1, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_dies_ends_the_others_in_words(fit, folder, tmp_path, launcher, victim):
    slow = {"class_path": HERE + "Slow"}
    assert fit("--trainer.max_steps=1", callbacks=[slow])[0] == 0  # writes the recipe
    words = ["-m", "tlkit.cli", "fit", "--config", str(tmp_path / "blobs.yaml"), "--run_id=two"]
    words += ["--trainer.max_steps=10000", "--data.batch_size=4", "--data.num_workers=0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    run = folder.parent / "two"
    if launcher == "trainer.devices":
        first = subprocess.Popen(
            [sys.executable, *words, "--trainer.devices=2"], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
        )
        processes = [first]
    else:
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "GROUP_RANK": "0"}
        shared |= {"MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "test"}
        processes = [
            subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                env={**env, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            ) for rank in range(2)
        ]  # fmt: skip
    deadline = time.monotonic() + 150
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if launcher == "trainer.devices":
        (child,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        left = first
    else:
        processes[victim].kill()
        left = processes[1 - victim]
    began = time.monotonic()
    _, errors = left.communicate(timeout=100)
    assert time.monotonic() - began < 60
    assert left.returncode in (1, 143)
    assert "another process of this run has ended" in errors
    assert "Traceback" not in errors
    assert finite(last(run))
    for process in processes:
        process.kill()
        process.communicate()
