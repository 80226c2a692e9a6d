"""The same command under every launcher: one folder, one summary, and the numbers of one process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import STEPS, TRAINING
from tests.ranks import free_port
from tlkit.cli.launch import Launch, launched, trainer_settings
from tlkit.cli.main import main
from tlkit.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "recipes" / "launch"
STEP = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "interactive",  # srun in a shell that salloc made
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "127.0.0.1",
}
# Dies as a process does that the system kills, once.
DIES = """\
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class Dies(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_rank == 1 and trainer.global_step == 20 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def environment(**more):
    """Return the environment of a process that a launcher is started in: this Python's programs come first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def start(command, folder, **more):
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes, status=0, timeout=400):
    """Wait for all, and return what each printed to stdout and stderr."""
    printed = [process.communicate(timeout=timeout) for process in processes]
    for process, (_, err) in zip(processes, printed, strict=True):
        assert process.returncode == status, err
    return printed


def metrics_of(run):
    return json.loads((run / "summary.json").read_text())["metrics"]


def check_run(root, one):
    """Check that there is one run, of two processes, with the numbers of one process; return its folder."""
    (run,) = (root / "runs" / "tiny").iterdir()
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert left == {
        "config.yaml", "metrics.csv", "splits.json", "summary.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt",
    }  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert summary["environment"]["world_size"] == 2
    assert summary["metrics"] == one
    return run


# What the environment says.


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # a shell of salloc
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "ENVIRONMENT": "BATCH"}, None),  # a batch script, without srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, None),
        ({**STEP, "SLURM_PROCID": "0"}, Launch("srun", 2, 1)),
        ({**STEP, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),  # srun --pty bash, and a command in it
        ({**STEP, "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH", "SLURM_NTASKS": "8"}, Launch("srun", 2, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}, Launch("srun", 2, 2)),
        ({**STEP, "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, None),  # what Lightning starts inside a step
        (
            {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", **STEP, "SLURM_PROCID": "1"},
            Launch("the launcher", 2, 2),
        ),
        (
            {"TORCHELASTIC_RUN_ID": "r", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
            Launch("torchrun", 1, 1),
        ),
    ],
)
def test_what_started_this_process(environ, found):
    assert launched(environ) == found


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"},
            "6 processes were started, 2 of them on this one of 2 nodes",
        ),
        ({**STEP, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, "nodes 2,1"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "start the processes of each node by torchrun"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(environ, message):
    with pytest.raises(ConfigurationError, match=message):
        launched(environ)


NOTHING_SAID = {"devices": "auto", "num_nodes": 1, "plugins": None, "strategy": "auto"}


def test_devices_and_nodes_come_from_the_launcher(monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    for said in ({}, {"devices": 2}, {"devices": "2"}, {"devices": -1}, {"num_nodes": 3}):
        settings = trainer_settings({**NOTHING_SAID, **said})
        assert (int(settings["devices"]), settings["num_nodes"]) == (2, 3)
    assert trainer_settings({**NOTHING_SAID, "devices": [1, 3]})["devices"] == [1, 3]
    for said in ({"devices": 4}, {"devices": [0]}, {"devices": "0,1,2"}, {"num_nodes": 2}):
        with pytest.raises(ConfigurationError, match="started"):
            trainer_settings({**NOTHING_SAID, **said})


def test_another_number_of_devices_than_srun_started_is_refused_before_training(recipe_file, monkeypatch, capsys):
    for name, value in {**STEP, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "--config", str(recipe_file), "--trainer.devices=3"]) == 2
    assert "trainer.devices=3, but srun started 2 processes a node" in capsys.readouterr().err
    assert not (recipe_file.parent / "runs").exists()
    assert main(["predict", "--config", str(recipe_file), "--ckpt_path", str(recipe_file)]) == 2
    assert "runs in one process" in capsys.readouterr().err


def test_a_plain_process_inside_an_allocation_waits_for_nobody(recipe_file, monkeypatch, caplog):
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "mine"}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "--config", str(recipe_file), "--run_id=r"]) == 0
    assert "SLURM has 4 tasks for this job, but srun did not start this process" in caplog.text
    summary = json.loads((recipe_file.parent / "runs" / "tiny" / "r" / "summary.json").read_text())
    assert summary["environment"]["world_size"] == 1


# A job that is started again.


def test_a_job_that_is_started_again_goes_on_and_ends_once(recipe_file, capsys):
    words = ["fit", "--config", str(recipe_file), "--run_id=job", "--resume=auto"]
    run = recipe_file.parent / "runs" / "tiny" / "job"
    assert main(words) == 0
    before = (run / "summary.json").read_text()
    capsys.readouterr()
    assert main(words) == 0  # a pod that is started again after its work is done
    assert capsys.readouterr().out == f"{run}\n"
    assert (run / "summary.json").read_text() == before
    (run / "summary.json").unlink()  # as if it had been stopped at its last step
    assert main(words) == 0
    assert metrics_of(run) == json.loads(before)["metrics"]
    assert main([*words, "--trainer.max_steps=9"]) == 0
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == 9
    assert sorted(path.name for path in run.parent.iterdir()) == ["job"]
    assert main([*words, "--trainer.max_steps=9", "--data.batch_size=16"]) == 2
    assert "has another data.init_args.batch_size than this command" in capsys.readouterr().err


def test_a_start_that_ended_before_its_first_checkpoint_is_set_aside(recipe_file, caplog):
    runs = recipe_file.parent / "runs" / "tiny"
    for name in ("job", "job.stopped-1"):
        (runs / name).mkdir(parents=True)
    (runs / "job" / "config.yaml").write_text("model: {}\n")
    (runs / "job" / "metrics.csv").write_text("step\n")
    assert main(["fit", "--config", str(recipe_file), "--run_id=job", "--resume=auto"]) == 0
    assert "ended before its first checkpoint" in caplog.text
    assert sorted(path.name for path in runs.iterdir()) == ["job", "job.stopped-1", "job.stopped-2"]
    assert (runs / "job.stopped-2" / "metrics.csv").read_text() == "step\n"
    assert (runs / "job" / "summary.json").is_file()


def test_only_a_start_of_a_run_is_set_aside(recipe_file, trained, capsys, monkeypatch):
    words = ["fit", "--config", str(recipe_file), "--model.optimizer.lr=0.001", "--resume=auto"]
    runs = recipe_file.parent / "runs" / "tiny"
    job = Path(shutil.copytree(trained.folder, runs / "job"))
    (runs / "exp1" / "other").mkdir(parents=True)
    before = sorted(runs.rglob("*"))
    (job / "checkpoints" / "last.ckpt").rename(recipe_file.parent / "last.ckpt")
    assert main([*words, "--run_id=job"]) == 0  # finished, whatever of its checkpoints is kept
    assert capsys.readouterr().out == f"{job}\n"
    assert main([*words, "--run_id=job", "--trainer.max_steps=9"]) == 2
    assert "is finished and has no checkpoints/last.ckpt to train longer from" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tlkit.cli.training", None)  # the rest is found before anything is imported
    (job / "summary.json").rename(recipe_file.parent / "summary.json")
    assert main([*words, "--run_id=job"]) == 2
    assert "has best.ckpt and no last.ckpt to go on from" in capsys.readouterr().err
    assert main([*words, "--run_id=exp1"]) == 2
    assert "exp1 is not a run's folder, it has no config.yaml" in capsys.readouterr().err
    for name in (".", "..", "a/b"):
        assert main([*words, f"--run_id={name}"]) == 2
        assert f"must be the name of one folder, got {name!r}" in capsys.readouterr().err
    (recipe_file.parent / "last.ckpt").rename(job / "checkpoints" / "last.ckpt")
    (recipe_file.parent / "summary.json").rename(job / "summary.json")
    assert sorted(runs.rglob("*")) == before


def test_a_job_whose_config_was_emptied(recipe_file, trained, capsys):
    job = Path(shutil.copytree(trained.folder, recipe_file.parent / "runs" / "tiny" / "job"))
    (job / "config.yaml").write_text("")
    assert main(["fit", "--config", str(recipe_file), "--run_id=job", "--resume=auto"]) == 2
    assert f"{job / 'config.yaml'} must be a mapping with 'model' and 'data', got None" in capsys.readouterr().err


def test_a_run_is_found_again_by_its_name(recipe_file, capsys):
    assert main(["fit", "--config", str(recipe_file), "--resume=auto"]) == 2
    assert "add --run_id=NAME" in capsys.readouterr().err


# torchrun.


@pytest.mark.ddp
@pytest.mark.timeout(400)
def test_torchrun_on_one_machine(recipe_file, one):
    command = ["bash", LAUNCH / "torchrun.sh", recipe_file, *TRAINING]
    ((out, _),) = finish(start(command, recipe_file.parent, PROCESSES="2"))
    run = check_run(recipe_file.parent, one)
    assert out.count("held-out test splits") == 1
    assert out.splitlines()[-1] == str(run)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_on_two_machines_then_further_and_tested(recipe_file, one):
    """Two agents of one process each, that meet on the loopback interface."""
    root = recipe_file.parent
    meet = {"NODES": "2", "PROCESSES": "1", "RUN": "r", "HEAD": f"127.0.0.1:{free_port()}"}
    command = ["bash", LAUNCH / "torchrun.sh", recipe_file, *TRAINING]
    printed = finish(*(start(command, root, **meet) for _ in range(2)))
    run = check_run(root, one)
    assert sorted(out.count("held-out test splits") for out, _ in printed) == [0, 1]

    torchrun = ["torchrun", "--standalone", "--nproc-per-node=2", "-m", "tlkit.cli"]
    finish(start([*torchrun, "fit", "--resume", run, f"--trainer.max_steps={STEPS + 2}"], root))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["train"]["steps"] == STEPS + 2
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == STEPS + 2
    ((out, _),) = finish(start([*torchrun, "test", "--config", run / "config.yaml"], root))
    assert out.count("held-out test splits") == 1
    row = next(line for line in out.splitlines() if "optdigits" in line and "target" in line)
    assert f"{summary['metrics']['test/optdigits/accuracy']:.3f}" in row


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_starts_all_again_when_one_dies(recipe_file, one):
    (recipe_file.parent / "dies.py").write_text(DIES)
    command = ["bash", LAUNCH / "torchrun.sh", recipe_file, *TRAINING, "--trainer.callbacks=[dies.Dies]"]
    ((out, err),) = finish(start(command, recipe_file.parent, PROCESSES="2", RESTARTS="1"))
    assert (recipe_file.parent / "died").exists()
    assert "exitcode: -9" in err
    check_run(recipe_file.parent, one)
    assert out.count("held-out test splits") == 1


# srun: stood in for by what it does as far as tlkit can see, which is to start tasks with these variables.

SRUN = f"""\
#!/usr/bin/env bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 9
shift
export {" ".join(f"{name}={value}" for name, value in STEP.items())} SLURM_NODEID=0
tasks=()
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks+=($!)
done
echo "${{tasks[@]}}" > tasks
status=0
for task in "${{tasks[@]}}"; do wait "$task" || status=$?; done
exit $status
"""


@pytest.fixture
def sbatch(recipe_file):
    """Return a function that runs slurm.sbatch as SLURM would, in the folder of the recipe."""
    root = recipe_file.parent
    programs = root / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", '#!/usr/bin/env bash\necho "$@" >> scontrol\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(*words):
        path = f"{programs}{os.pathsep}{environment()['PATH']}"
        job = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2", "ENVIRONMENT": "BATCH", "MASTER_PORT": str(free_port())}
        return start(["bash", LAUNCH / "slurm.sbatch", recipe_file, *words], root, **{**job, "PATH": path})

    return run


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_srun(recipe_file, sbatch, one):
    ((out, _),) = finish(sbatch(*TRAINING))
    assert check_run(recipe_file.parent, one).name == "job-77"
    assert out.count("held-out test splits") == 1
    assert not (recipe_file.parent / "scontrol").exists()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_preempted_job_of_slurm_is_requeued_and_goes_on(recipe_file, sbatch):
    root = recipe_file.parent
    endless = ["--trainer.max_steps=100000", "--trainer.max_epochs=-1"]
    job, run = sbatch(*endless), root / "runs" / "tiny" / "job-77"
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline, "training did not start"
        time.sleep(0.2)
    for task in (root / "tasks").read_text().split():
        os.kill(int(task), signal.SIGTERM)
    finish(job, status=143)
    assert (root / "scontrol").read_text() == "requeue 77\n"
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    finish(sbatch(*endless[1:], f"--trainer.max_steps={step + 2}"))
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == step + 2
    assert (root / "scontrol").read_text() == "requeue 77\n"


def can_unshare():
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode
        == 0
    )


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not can_unshare(), reason="needs the right to mount file systems")
def test_nodes_that_do_not_share_the_folder_of_runs_are_refused_before_training(recipe_file):
    root = recipe_file.parent
    (root / "runs").mkdir()
    nodes = {**STEP, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0", "MASTER_PORT": str(free_port())}
    fit = [sys.executable, "-m", "tlkit.cli", "fit", "--config", recipe_file]
    own = ["unshare", "--mount", "bash", "-c", f'mount -t tmpfs none {root / "runs"}; exec "$@"', "bash"]
    tasks = [
        start(fit, root, SLURM_PROCID="0", SLURM_NODEID="0", **nodes),
        start([*own, *fit], root, SLURM_PROCID="1", SLURM_NODEID="1", **nodes),
    ]
    printed = finish(*tasks, status=2)
    for _, err in printed:
        assert "give --runs a folder on a file system that all nodes share" in err
        assert "Traceback" not in err
    assert list((root / "runs").iterdir()) == []
