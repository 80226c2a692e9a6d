"""What the progress bar shows, where it shows it, and what it costs."""

import io
import re
import time

import lightning as L
import pytest
from rich.console import Console

from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import ProgressBar
from tlkit.callbacks.progress import _clock, _times, figures
from tlkit.losses import MMD
from tlkit.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6 on torch 2.15


class Slow(L.Callback):
    def __init__(self, seconds):
        self.seconds = seconds

    def on_train_batch_start(self, *_):
        time.sleep(self.seconds)


def trainer(bar, steps, *callbacks, **options):
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=steps // 2,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar, *callbacks],
        **options,
    )


def parts():
    return TransferModule(MLP(), Classification(), [MMD(weight=0.5)]), ShiftedBlobs(["still"], ["moved"])


def on_console(bar, terminal):
    bar._console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    return bar._console.file


def test_what_is_printed_is_no_markup(capsys):
    ProgressBar().print("domains ['day', '[/night]']: [red]", ":cat:")
    assert capsys.readouterr().err == "domains ['day', '[/night]']: [red] :cat:\n"


def test_without_a_terminal_it_prints_few_plain_lines(monkeypatch):
    monkeypatch.setattr("tlkit.callbacks.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("tlkit.callbacks.progress.UPDATES_PER_SECOND", 1e9)
    bar = ProgressBar(lines=20)
    out = on_console(bar, terminal=False)
    model, data = parts()
    run = trainer(bar, 200)
    run.fit(model, datamodule=data)
    lines = out.getvalue().splitlines()
    assert 18 <= len(lines) <= 22
    assert "\x1b" not in out.getvalue()
    pattern = (
        r"step \d+/200  \d+:\d\d(  \d+:\d\d left)?  [\d.]+ it/s  accuracy [\d.]+  task [\d.e-]+  mmd [\d.e-]+ x 0.5"
    )
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    assert lines[-1].startswith("step 200/200")
    run.test(model, datamodule=data, verbose=False)
    assert re.fullmatch(r"test: 4 batches in \d+\.\d s", out.getvalue().splitlines()[-1])


def test_a_terminal_gets_a_bar_with_validation_and_test():
    bar = ProgressBar()
    out = on_console(bar, terminal=True)
    model, data = parts()
    run = trainer(bar, 8, Slow(0.05))
    run.fit(model, datamodule=data)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert re.search(r"train .*8/8 .*it/s .*accuracy [\d.]+  task [\d.e-]+  mmd [\d.e-]+ x 0.5", text)
    assert re.search(r"validate .* \d/\d", text)
    assert "left" in text
    assert bar._bar is None  # and the cursor is back
    run.test(model, datamodule=data, verbose=False)
    assert "test" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())[len(text) :]
    run.validate(model, datamodule=data, verbose=False)
    run.predict(model, datamodule=data)
    assert "predict" in out.getvalue()


def test_a_bar_is_gone_after_an_error():
    class Breaks(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 3:
                raise RuntimeError("broken")

    bar = ProgressBar()
    on_console(bar, terminal=True)
    model, data = parts()
    with pytest.raises(RuntimeError, match="broken"):
        trainer(bar, 8, Breaks()).fit(model, datamodule=data)
    assert bar._bar is None


def test_a_disabled_bar_is_silent():
    bar = ProgressBar()
    out = on_console(bar, terminal=True)
    bar.disable()
    model, data = parts()
    trainer(bar, 4).fit(model, datamodule=data)
    assert out.getvalue() == ""


def test_figures_leave_out_what_is_not_a_loss_with_a_weight():
    values = {
        "train/dann": 0.7, "train/dann/weight": 0.46, "train/dann/accuracy": 0.5, "train/loss": 1.0,
        "val/mnist/accuracy": 0.9, "train/accuracy": 1.0,
    }  # fmt: skip
    assert figures(values) == "accuracy 1  dann 0.7 x 0.46"
    assert figures({}) == ""


def test_times_are_worked_out():
    assert _times(done=50, left=150, seconds=10.0) == "0:10  0:30 left  5.0 it/s"
    assert _times(done=5000, left=float("inf"), seconds=10.0) == "0:10  500 it/s"
    assert _times(done=0, left=10, seconds=0.0) == "0:00  0.0 it/s"
    assert [_clock(seconds) for seconds in (0.4, 59.6, 3599, 3600, 90061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]
