"""``tlkit ray``: the same command in the workers of Ray Train, each time in a Ray of its own on this machine."""

import importlib.util
import json

import pytest
import torch

from tests.cli.conftest import STEPS, TRAINING
from tests.cli.test_launchers import DIES, check_run, finish, start
from tlkit.cli import on_ray
from tlkit.cli.main import main
from tlkit.errors import ConfigurationError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs pip install "tlkit[ray]"')


def ray(words, folder):
    """Start the real command; what Ray keeps at home it keeps in the test's folder, and it looks for no other Ray."""
    command = ["python", "-m", "tlkit.cli", "ray", *words]
    patient = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}  # seconds; a busy machine needs more than Ray's 60
    return start(command, folder, RAY_ADDRESS="local", HOME=str(folder), RAY_USAGE_STATS_ENABLED="0", **patient)


@needs_ray
@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_workers(recipe_file, one):
    ((out, err),) = finish(ray(["fit", "--config", recipe_file, "--workers", "2", *TRAINING], recipe_file.parent))
    run = check_run(recipe_file.parent, one)
    assert out.count("held-out test splits") == 1
    assert out.splitlines()[-1] == str(run)
    assert f"step {STEPS}/{STEPS}" in err  # the first worker's progress
    assert not list(recipe_file.parent.rglob(".ray-*"))


@needs_ray
@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_dies_ends_in_words_and_the_run_is_resumed(recipe_file):
    root = recipe_file.parent
    (root / "dies.py").write_text(DIES)
    words = ["--workers=2", *TRAINING, "--run_id=r", "--trainer.callbacks=[dies.Dies]"]
    ((out, err),) = finish(ray(["fit", "--config", recipe_file, *words], root), status=1)
    assert "held-out" not in out
    assert "tlkit: error: worker 1 failed" in err
    assert "tlkit ray fit --resume RUN" in err
    run = root / "runs" / "tiny" / "r"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 15
    finish(ray(["fit", "--resume", run, "--workers=2"], root))
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == STEPS


@needs_ray
@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_the_user_can_mend_reads_as_without_ray_and_leaves_nothing(recipe_file):
    words = ["fit", "--config", recipe_file, "--workers=2", "--data.batch_size=100000"]
    ((out, err),) = finish(ray(words, recipe_file.parent), status=2)
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("tlkit: error")]
    assert "batch_size 100000 on each of 2 ranks is larger than the training split" in line
    assert "Traceback" not in err
    assert not (recipe_file.parent / "runs").exists()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_more_gpus_than_there_are(recipe_file):
    words = ["fit", "--config", recipe_file, "--workers=99", "--gpus-per-worker=1"]
    ((_, err),) = finish(ray(words, recipe_file.parent), status=2)
    assert "--workers=99: 99 workers need 99 GPUs, the Ray cluster has" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "unknown command of tlkit ray ''"),
        (["fitt", "--config", "r"], "did you mean 'fit'"),
        (["fit", "--config", "digits/mnist_to_optdigits_mmd", "--workers", "two"], "--workers must be a whole number"),
        (["fit", "--config", "digits/mnist_to_optdigits_mmd", "--workers=0"], "from 1 up; got '0'"),
        (["fit", "--config", "digits/mnist_to_optdigits_mmd", "--gpus-per-worker=2"], "0 or 1: a worker trains on one"),
        (["fit", "--config", "digits/mnist_to_optdigits_mmd", "--print_config"], "leave the word 'ray' out"),
        (["fit", "--config", "digits/mnist_to_optdigit_mmd"], "did you mean 'digits/mnist_to_optdigits_mmd'"),
        (["fit", "--workers=2"], "needs --config RECIPE"),
    ],
)
def test_mistakes_are_found_before_ray_is_started(words, message, capsys):
    assert main(["ray", *words]) == 2
    assert message in capsys.readouterr().err


def test_its_options_may_stand_anywhere():
    resources, rest = on_ray._split(["--config", "r", "--workers", "3", "--run_id=x", "--cpus-per-worker=2"])
    assert (resources.workers, resources.gpus_per_worker, resources.cpus_per_worker) == (3, None, 2)
    assert rest == ["--config", "r", "--run_id=x"]


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r'pip install "tlkit\[ray\]"'):
        on_ray.run_on_ray(["fit", "--config", "digits/mnist_to_optdigits_mmd"])


def test_a_folder_that_a_worker_does_not_have(tmp_path):
    with pytest.raises(ConfigurationError, match="is not there on every node"):
        on_ray._work({"folder": str(tmp_path / "nowhere"), "words": []})
