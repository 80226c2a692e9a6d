"""Run a function on several gloo processes, with the environment that torchrun gives."""

import multiprocessing
import os
import pickle
import socket

import torch
import torch.multiprocessing as mp
from lightning.pytorch.utilities import rank_zero_only

# Every rank is forked from one process that has imported these; started afresh, each would import them for seconds.
multiprocessing.get_context("forkserver").set_forkserver_preload(["lightning.pytorch", "tlkit.module", "tlkit.data"])


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _run(rank, world, port, function, args, folder):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    rank_zero_only.rank = rank  # which Lightning reads from the environment when it is imported
    torch.set_num_threads(1)
    result = function(*args)
    with open(os.path.join(folder, f"{rank}.pkl"), "wb") as file:
        pickle.dump(result, file)


def on_ranks(world, function, *args, folder):
    """Return what ``function(*args)``, a module-level function, returned on each of ``world`` processes."""
    mp.start_processes(_run, (world, free_port(), function, args, str(folder)), nprocs=world, start_method="forkserver")
    results = []
    for rank in range(world):
        with open(os.path.join(folder, f"{rank}.pkl"), "rb") as file:
            results.append(pickle.load(file))
    return results
