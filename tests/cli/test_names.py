import re
import sys

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

import tlkit.callbacks
import tlkit.losses
import tlkit.schedules
from tlkit.cli.main import main
from tlkit.cli.names import SLOTS, listing, resolve_class, slot_of
from tlkit.data import DomainDataModule
from tlkit.errors import ConfigurationError
from tlkit.losses import MMD, AdaptationLoss
from tlkit.schedules import DannRamp, Schedule
from tlkit.tasks import Task


def test_every_slot_offers_classes_that_fit_it():
    for slot in SLOTS:
        package = __import__(slot.packages[0], fromlist=["x"])
        base = getattr(__import__(slot.base.rpartition(".")[0], fromlist=["x"]), slot.base.rpartition(".")[2])
        name = next(
            name
            for name in getattr(package, "__all__", dir(package))
            if isinstance(getattr(package, name), type)
            and issubclass(getattr(package, name), base)
            and getattr(package, name) is not base
        )
        assert resolve_class(name, base, "here")[0] is getattr(package, name)


@pytest.mark.parametrize(
    ("base", "name"),
    [(AdaptationLoss, "adaptation loss"), (Task, "task"), (DomainDataModule, "data module"), (nn.Module, "backbone"),
     (Schedule, "schedule"), (torch.optim.Optimizer, "optimizer"), (MMD, "adaptation loss")],
)  # fmt: skip
def test_slot_of_an_annotation(base, name):
    slot = slot_of(base)
    assert slot is not None
    assert slot.name == name


def test_types_without_a_slot():
    assert slot_of(int) is None


def test_bare_names_and_import_paths():
    assert resolve_class("MMD", AdaptationLoss, "x") == (MMD, "tlkit.losses.MMD")
    assert resolve_class("tlkit.losses.mmd.MMD", AdaptationLoss, "x")[0] is MMD
    assert resolve_class("DannRamp", Schedule, "x") == (DannRamp, "tlkit.schedules.DannRamp")


def test_a_class_of_the_users_own_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_own_losses.py").write_text(
        "from tlkit.losses import AdaptationLoss\nclass Mine(AdaptationLoss):\n    pass\nVALUE = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.delitem(sys.modules, "my_own_losses", raising=False)
    found, path = resolve_class("my_own_losses.Mine", AdaptationLoss, "x")
    assert issubclass(found, AdaptationLoss)
    assert path == "my_own_losses.Mine"
    with pytest.raises(ConfigurationError, match="has no Mini: did you mean Mine"):
        resolve_class("my_own_losses.Mini", AdaptationLoss, "x")
    with pytest.raises(ConfigurationError, match="VALUE is a int, not a class"):
        resolve_class("my_own_losses.VALUE", AdaptationLoss, "x")


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("MDM", AdaptationLoss, "here: unknown adaptation loss 'MDM': did you mean 'MMD'"),
        ("ConvNet", Task, "unknown task 'ConvNet'"),
        ("tlkit.tasks.Classification", AdaptationLoss, "cannot be the adaptation loss: it must extend"),
        ("os.system", nn.Module, "not a class"),
        ("no_such_module.Thing", nn.Module, "there is no module 'no_such_module'"),
        ("torch.optim.Adm", torch.optim.Optimizer, "did you mean Adam"),
        (".MMD", AdaptationLoss, "cannot be imported"),
    ],
)
def test_names_that_cannot_be_resolved(name, base, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve_class(name, base, "here")


def test_a_missing_package_of_the_users_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(ConfigurationError, match="needs the package 'surely_not_installed'"):
        resolve_class("needs_more.Thing", nn.Module, "here")


@pytest.mark.parametrize("kind", ["backbones", "losses", "tasks", "data", "finetuning", "schedules", "callbacks"])
def test_list(kind, capsys):
    assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    assert "``" not in out
    assert ":func:" not in out


@pytest.mark.parametrize("kind", ["backbones", "losses", "tasks", "data", "finetuning"])
def test_everything_is_listed_with_its_paper_or_source(kind):
    """Each entry is one line, or two with the source behind an indent; authors and year are in one of them."""
    entries = re.split(r"\n(?! )", listing(kind))
    without = [entry.split()[0] for entry in entries if not re.search(r"[A-Z]\w+.*\b(19|20)\d\d\b", entry)]
    # What reads files of the user's own comes from no paper.
    own = {name for name in without if name.endswith("Domains")} if kind == "data" else set()
    assert set(without) == own


def test_losses_are_listed_with_their_papers():
    text = listing("losses")
    for name in tlkit.losses.__all__:
        found = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        assert len(found) == (name != "AdaptationLoss")
    assert "Long et al." in text
    assert 'Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016.' in text


def test_misspelt_list():
    with pytest.raises(ConfigurationError, match="did you mean 'backbones'"):
        listing("backbone")


def test_callbacks_and_schedules_are_those_of_tlkit():
    for kind, module, no_class in (
        ("callbacks", tlkit.callbacks, "MetricsFile"),
        ("schedules", tlkit.schedules, "Schedule"),
    ):
        names = re.findall(r"^\w+", listing(kind), flags=re.MULTILINE)
        assert set(names) == set(module.__all__) - {no_class}
    assert resolve_class("EarlyStopping", Callback, "x")[1] == "lightning.pytorch.callbacks.EarlyStopping"
