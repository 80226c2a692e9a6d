import os

# Before torch is imported: one thread a process, so that tests which start several processes, or run in several, do not
# fight for the cores; and nothing is looked up outside this machine unless a test marked "network" asks for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import ctypes
import gc
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(config, items):
    """Run what starts several processes one after the other, also under pytest-xdist with --dist=loadgroup.

    Two at a time would fight for the cores, and for the free port that each has found for itself.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("ddp"):
                item.add_marker(pytest.mark.xdist_group("processes"))


def pytest_collection_finish(session):
    """Let the collector leave alone what imports have made, or every pass over it takes a third of a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config):
    """Give everything back to the collector: some extension modules report what it could not free at exit."""
    gc.unfreeze()


_MOST = 200_000_000  # bytes that tests may leave behind before they are looked for
_after = {"bytes": 0}


def _bytes():
    """Return how much memory this process has, 0 where Linux's file is not."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid, location):
    """Free the models of tests that are over.

    A trainer and its module point at each other, so they wait for a full pass of the collector, which counts objects
    and not their bytes: dozens of networks and their optimizers' states would be kept. What is freed goes back to the
    system only when the C library is told to.
    """
    if _bytes() > _after["bytes"] + _MOST:
        gc.collect()
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        _after["bytes"] = _bytes()


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what libraries draw from
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_left():
    """Lightning leaves the address of a group and the seed of a run, which is that of orders, to what comes later."""
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE")
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What tests make is not kept among the user's tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tlkit_data():
    """Return the folder of the real data sets, named by the environment variable TLKIT_DATA."""
    if not os.environ.get("TLKIT_DATA"):
        pytest.skip("the real data sets are not here: set TLKIT_DATA to their folder")
    return Path(os.environ["TLKIT_DATA"])
