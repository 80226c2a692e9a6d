"""The launch files that come with tlkit are whole, and the commands in them are understood by what they call."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from tlkit.cli import recipes
from tlkit.cli.main import main
from tlkit.cli.on_ray import COMMANDS, _split
from tlkit.cli.request import fit_request

LAUNCH = Path(__file__).resolve().parents[2] / "recipes" / "launch"
FILES = sorted(LAUNCH.iterdir())
SCRIPTS = [file for file in FILES if file.suffix in (".sh", ".sbatch")]
DIGITS = "digits/mnist_to_optdigits_mmd"


def read(name):
    return yaml.safe_load((LAUNCH / name).read_text())


def test_a_user_finds_and_copies_them_and_they_are_no_recipes(tmp_path, capsys):
    assert not [name for name in recipes.find_recipes() if "launch" in name]
    assert main(["recipes", "launch"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [f"launch/{file.name}" for file in FILES]
    assert all(len(line.split()) > 3 for line in listed)  # a title each
    mine = tmp_path / "mine.sbatch"
    assert main(["copy", "launch/slurm.sbatch", str(mine)]) == 0
    assert mine.read_text() == (LAUNCH / "slurm.sbatch").read_text()
    assert "--config" not in capsys.readouterr().out
    assert main(["copy", "launch/slurm.sh", str(mine)]) == 2
    assert "did you mean 'launch/slurm.sbatch'" in capsys.readouterr().err
    assert main(["fit", "--config", "launch/sky"]) == 2


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_the_scripts_are_bash_and_ask_for_a_recipe(file):
    subprocess.run(["bash", "-n", file], check=True)
    done = subprocess.run(["bash", file], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RECIPE [options of tlkit fit]" in done.stderr


def words_of(command, program, folder, **environ):
    """Return the words that bash calls a program with: one that writes them down stands in its place."""
    stand_in = folder / program
    stand_in.write_text(f'#!/usr/bin/env bash\nprintf "%s\\0" "$@" > {folder}/words\n')
    stand_in.chmod(0o755)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", **environ}
    subprocess.run(["bash", "-c", command], check=True, env=environ)
    return (folder / "words").read_text().split("\0")[:-1]


def check_torchrun(words):
    """Check a command of torchrun by torchrun's own parser, and the rest of it by tlkit's; return both."""
    options = get_args_parser().parse_args(words)
    assert options.module
    assert options.training_script == "tlkit.cli"
    assert options.training_script_args[0] == "fit"
    return options, fit_request(options.training_script_args[1:])


def test_torchrun_on_several_machines(tmp_path):
    command = f"bash {LAUNCH}/torchrun.sh {DIGITS} --trainer.max_steps=3"
    options, request = check_torchrun(
        words_of(command, "torchrun", tmp_path, RUN="a", NODES="2", HEAD="node1:29500", PROCESSES="4", RESTARTS="1")
    )
    assert (options.nnodes, options.nproc_per_node, options.max_restarts) == ("2", "4", 1)
    assert (options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id) == ("c10d", "node1:29500", "a")
    assert request.recipe["run_id"] == "a"
    assert request.auto
    assert request.recipe["trainer"]["max_steps"] == 3


@pytest.mark.parametrize("missing", ["RUN", "HEAD"])
def test_torchrun_on_several_machines_needs_one_name_and_one_place_to_meet(missing):
    given = {"RUN": "a", "HEAD": "node1:29500", "NODES": "2", "PATH": os.environ["PATH"]}
    del given[missing]
    done = subprocess.run(["bash", LAUNCH / "torchrun.sh", "r"], env=given, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"set {missing}" in done.stderr


def test_pytorchjob():
    job = read("pytorchjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    specs = job["spec"]["pytorchReplicaSpecs"]
    pods = 0
    for spec in (specs["Master"], specs["Worker"]):
        pods += spec["replicas"]
        (container,) = spec["template"]["spec"]["containers"]
        assert container["name"] == "pytorch"
        assert container["command"] == ["torchrun"]
        set_by_the_operator = {"RANK": "1", "MASTER_ADDR": "tlkit-master-0", "MASTER_PORT": "23456"}
        words = container["args"]
        for name, value in set_by_the_operator.items():
            words = [word.replace(f"$({name})", value) for word in words]
        options, request = check_torchrun(words)
        assert options.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
        assert (options.node_rank, options.master_addr, options.master_port) == (1, "tlkit-master-0", 23456)
        assert request.auto
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert request.recipe["runs"].startswith(mounts["shared"])
        assert set(mounts) == {each["name"] for each in spec["template"]["spec"]["volumes"]}
    assert options.nnodes == str(pods)


def test_sky(tmp_path):
    task = read("sky.yaml")
    sky = {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_TASK_ID": "sky-managed-1",
    }
    options, request = check_torchrun(words_of(task["run"], "torchrun", tmp_path, **sky, **task["envs"]))
    assert (options.nnodes, options.nproc_per_node, options.node_rank) == ("2", "8", 1)
    assert options.master_addr == "10.0.0.1"
    assert request.recipe["recipe"] == task["envs"]["RECIPE"]
    assert request.recipe["runs"] in task["file_mounts"]
    *install, checkout = task["setup"].split()
    assert install == ["pip", "install"]
    assert checkout in task["file_mounts"]  # tlkit is on no index
    assert request.recipe["run_id"] == "sky-managed-1"


def test_ray_job():
    job = read("ray.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, ray, command, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, ray) == ("tlkit", "ray")
    assert command in COMMANDS
    resources, rest = _split(words)
    request = fit_request(rest)
    assert request.auto
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    assert resources.workers * resources.gpus_per_worker == group["replicas"] * int(limits["nvidia.com/gpu"])
    assert resources.workers * resources.cpus_per_worker <= group["replicas"] * int(limits["cpu"])
    for spec in (cluster["headGroupSpec"], group):
        (container,) = spec["template"]["spec"]["containers"]
        assert request.recipe["runs"].startswith(container["volumeMounts"][0]["mountPath"])


def test_the_slurm_script_asks_for_what_it_needs():
    asked = [line.split("#")[1] for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if "#SBATCH" in line]
    options = dict(word.partition("=")[::2] for line in asked for word in line.split()[1:])
    assert options["--ntasks-per-node"] == options["--gpus-per-node"]
    assert options["--signal"] == "TERM@120"
    assert "--requeue" in options
