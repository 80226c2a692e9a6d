import os

# Before torch is imported: one thread a process, so that tests which start several processes, or run in several, do not
# fight for the cores; and nothing is looked up outside this machine unless a test marked "network" asks for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import random
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


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what libraries draw from
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_group_left():
    """Lightning leaves the address of a group that this process made to the processes that later tests start."""
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE")
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
