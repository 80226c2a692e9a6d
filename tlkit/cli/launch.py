"""How this process was started: alone, or as one of many by torchrun, srun or Ray.

Only the environment is read, so that a mistake is found before the seconds that importing torch takes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlkit.errors import ConfigurationError
from tlkit.notes import say

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment

__all__ = ["Launch", "launched", "trainer_settings"]

_SHELLS = ("bash", "interactive")  # names that SLURM gives the job of an interactive shell


@dataclass(frozen=True)
class Launch:
    """What a launcher started.

    Attributes:
        by: ``"srun"``, ``"torchrun"``, or ``"the launcher"`` where another one (Ray) sets torchrun's variables.
        per_node: Processes a node.
        nodes: Number of nodes.
    """

    by: str
    per_node: int
    nodes: int


def launched(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Return what a launcher started this process in, or ``None`` where it was started alone.

    ``srun`` is known by the step that it makes: a batch script and the shell of an interactive allocation have SLURM's
    variables as well, and there a plain command is one process that must not wait for others.

    Raises:
        ConfigurationError: If the nodes have unequal numbers of processes, or variables are missing.

    Example:
        >>> launched({"RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"})
        Launch(by='the launcher', per_node=4, nodes=2)
        >>> step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
        >>> launched({**step, "SLURM_PROCID": "3"})
        Launch(by='srun', per_node=2, nodes=2)
        >>> launched({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}) is None
        True
    """
    if "LOCAL_WORLD_SIZE" in environ and "RANK" in environ:
        return _by_torchrun(environ)
    if "LOCAL_RANK" not in environ and int(environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in environ:
        raise ConfigurationError(
            f"RANK={environ['RANK']} and WORLD_SIZE={environ['WORLD_SIZE']} are set, LOCAL_RANK and LOCAL_WORLD_SIZE "
            "are not: start the processes of each node by torchrun, as in 'torchrun --nnodes=$WORLD_SIZE "
            "--node-rank=$RANK --master-addr=$MASTER_ADDR --nproc-per-node=gpu -m tlkit.cli fit ...'"
        )
    return _by_srun(environ) if "LOCAL_RANK" not in environ and _in_step(environ) else None


def _by_torchrun(environ: Mapping[str, str]) -> Launch:
    world, per_node = int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"])
    nodes = int(environ.get("GROUP_WORLD_SIZE", world // per_node))
    if nodes * per_node != world:
        raise ConfigurationError(
            f"{world} processes were started, {per_node} of them on this one of {nodes} nodes: start equally many on "
            "each (--nproc-per-node)"
        )
    by = "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "the launcher"
    return Launch(by, per_node, nodes)


def _in_step(environ: Mapping[str, str]) -> bool:
    if "SLURM_PROCID" not in environ or not ("SLURM_STEP_NUM_TASKS" in environ or "SLURM_NTASKS" in environ):
        return False
    if "SLURM_STEP_ID" in environ:
        return True
    # Without the step's number what is left is told by its surroundings, as Lightning does.
    return environ.get("ENVIRONMENT") != "BATCH" and environ.get("SLURM_JOB_NAME") not in _SHELLS


def _by_srun(environ: Mapping[str, str]) -> Launch | None:
    world = int(environ.get("SLURM_STEP_NUM_TASKS") or environ["SLURM_NTASKS"])
    if world == 1:
        return None  # nobody to wait for; with trainer.devices=4 Lightning starts the others
    names = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
    given = next((environ[name] for name in names if environ.get(name)), str(world))
    counts = _tasks_of(given)
    per_node = counts[0]
    if len(set(counts)) > 1 or world % per_node:
        raise ConfigurationError(
            f"srun started {world} tasks, on the nodes {given}: start equally many on each (--ntasks-per-node)"
        )
    return Launch("srun", per_node, world // per_node)


def _tasks_of(text: str) -> list[int]:
    """Return the number of tasks on each node, which SLURM writes as ``2(x3),1``."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def trainer_settings(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the trainer that follow from how the processes were started.

    Args:
        trainer: The recipe's arguments of the trainer.

    Raises:
        ConfigurationError: If the recipe asks for other devices or nodes than were started; as :func:`launched`.
    """
    from lightning.fabric.plugins import ClusterEnvironment

    launch = launched()
    settings: dict[str, Any] = {}
    if launch is not None:
        _must_match(launch, trainer)
        settings = {"devices": launch.per_node, "num_nodes": launch.nodes}
        if isinstance(trainer["devices"], list | str) and trainer["devices"] not in ("auto", "-1"):
            settings["devices"] = trainer["devices"]  # which ones, of the right number
    given = trainer["plugins"] or []
    plugins = given if isinstance(given, list) else [given]
    strategy = getattr(trainer["strategy"], "cluster_environment", None)
    if strategy is None and not any(isinstance(each, ClusterEnvironment) for each in plugins):
        environment = _cluster_environment(launch)
        if environment is not None:
            settings["plugins"] = [*plugins, environment]
    return settings


def _must_match(launch: Launch, trainer: Mapping[str, Any]) -> None:
    devices, nodes = _count(trainer["devices"]), trainer["num_nodes"]
    processes = "process" if launch.per_node == 1 else "processes"
    if devices is not None and devices != launch.per_node:
        raise ConfigurationError(
            f"trainer.devices={trainer['devices']}, but {launch.by} started {launch.per_node} {processes} a node: "
            f"start {devices} a node, or leave trainer.devices at 'auto'"
        )
    if nodes not in (1, launch.nodes):  # 1 is also what is there when nobody has said anything
        raise ConfigurationError(
            f"trainer.num_nodes={nodes}, but {launch.by} started processes on {launch.nodes}: start them on "
            f"{nodes} nodes, or leave trainer.num_nodes out"
        )


def _count(devices: Any) -> int | None:
    """Return how many devices a recipe asks for; ``None`` if as many as there are."""
    if devices in ("auto", -1, "-1"):
        return None
    if isinstance(devices, list):
        return len(devices)
    words = str(devices).strip(",").split(",")
    return int(words[0]) if len(words) == 1 and words[0].strip().isdigit() else len(words)


def _cluster_environment(launch: Launch | None) -> ClusterEnvironment | None:
    """Return what tells Lightning about the processes; ``None`` where it finds out by itself.

    Lightning takes SLURM's variables for ``srun`` wherever they are, and waits for tasks that nobody started. Its
    requeueing is left off: it saves in the middle of a step, :class:`~tlkit.callbacks.StopCleanly` at its end.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if launch is None:
        tasks = os.environ.get("SLURM_NTASKS")
        if tasks not in (None, "1"):
            say(f"SLURM has {tasks} tasks for this job, but srun did not start this process: it trains alone")
        return None if tasks is None else LightningEnvironment()
    if launch.by != "srun":
        return TorchElasticEnvironment()
    # Lightning reads the job's variables where the step has its own, and wants one that is only set if asked for.
    os.environ["SLURM_NTASKS"] = str(launch.per_node * launch.nodes)
    os.environ["SLURM_NTASKS_PER_NODE"] = str(launch.per_node)
    os.environ["SLURM_NNODES"] = str(launch.nodes)
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or "127.0.0.1"
        os.environ["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(nodes)
    if "MASTER_PORT" not in os.environ:  # another one for each step of a job
        job, step = (int(os.environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        os.environ["MASTER_PORT"] = str(15000 + (job + 101 * step) % 10000)
    return SLURMEnvironment(auto_requeue=False)
