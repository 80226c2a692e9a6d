from typing import Any

import pytest
import torch
from torch import nn

from tlkit.cli.check import check_keys, check_recipe
from tlkit.cli.options import override
from tlkit.cli.shell import TransferCLI
from tlkit.errors import ConfigurationError
from tlkit.losses import AdaptationLoss


class Opaque(nn.Module):
    """A backbone whose ``**kwargs`` go where no signature shows."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__()
        self.num_features = make(width, **kwargs)


def make(width, depth=1):
    return width * depth


class Wrapper(AdaptationLoss):
    """A loss that takes other parts."""

    def __init__(self, inner: AdaptationLoss, teacher: nn.Module | None = None, note: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)


PATH = f"{__name__}."


def test_names_become_import_paths(recipe):
    checked = check_recipe(recipe)
    assert checked["model"]["backbone"]["class_path"] == "tlkit.backbones.ConvNet"
    assert checked["model"]["task"] == {"class_path": "tlkit.tasks.Classification", "init_args": {}}
    coral = checked["model"]["adaptation"][0]
    assert coral["class_path"] == "tlkit.losses.CORAL"
    assert coral["init_args"]["weight"]["class_path"] == "tlkit.schedules.DannRamp"
    assert checked["model"]["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert checked["data"]["class_path"] == "tlkit.data.Digits"
    assert check_recipe(checked) == checked


@pytest.mark.parametrize(("name", "given"), [("SGD", {"lr": 0.1}), ("Adam", {"weight_decay": 0.2}), ("RAdam", {})])
def test_another_optimizer_has_its_own_defaults(recipe, name, given):
    """Not those of AdamW, which it takes the place of: these include a weight decay."""
    override(recipe, "model.optimizer", {"class_path": name, "init_args": given})
    found = TransferCLI(recipe).model.optimizer([nn.Parameter(torch.zeros(1))])
    assert type(found).__name__ == name
    assert found.defaults == getattr(torch.optim, name)([nn.Parameter(torch.zeros(1))], **given).defaults


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.max_epoch", 3, "trainer: unknown argument of Trainer 'max_epoch': did you mean 'max_epochs'"),
        ("data.source", ["mnist"], "data: unknown argument of Digits 'source': did you mean 'sources'"),
        ("data.batchsize", 3, "did you mean 'batch_size'"),
        (
            "model.backbone.chanels",
            [1],
            "model.backbone: unknown argument of ConvNet 'chanels': did you mean 'channels'",
        ),
        ("model.adaption", [], "model: unknown argument of TransferModule 'adaption': did you mean 'adaptation'"),
        ("model.optimizer.lrr", 1, "model.optimizer: unknown argument of AdamW 'lrr': did you mean 'lr'"),
        ("model.optimizer", "Adm", "unknown optimizer 'Adm': did you mean 'Adam'"),
        ("model.adaptation.0.wieght", 1, "model.adaptation.0: unknown argument of CORAL 'wieght'"),
        (
            "model.adaptation.0.weight.class_path",
            "DanRamp",
            "weight: unknown schedule 'DanRamp': did you mean 'DannRamp'",
        ),
        ("model.adaptation.0.weight.gama", 1, "unknown argument of DannRamp 'gama': did you mean 'gamma'"),
        ("model.backbone", "ConvNt", "unknown backbone 'ConvNt': did you mean 'ConvNet'"),
        ("model.backbone", "torch.nn.Linear", "Linear needs in_features, out_features"),
        ("model.backbone", {"init_args": {}}, "model.backbone has init_args but no class_path"),
        ("model.backbone", {"channels": [1]}, "model.backbone takes a class"),
        ("model.backbone.class_path", 3, "must be the name of a class, got 3"),
        ("model.task", "tlkit.losses.MMD", "cannot be the task: it must extend tlkit.tasks"),
        ("data", "tlkit.losses.MMD", "cannot be the data module"),
        ("data", "Digit", "unknown data module 'Digit': did you mean 'Digits'"),
        ("trainer.callbacks", ["EarlyStoping"], "unknown callback 'EarlyStoping': did you mean 'EarlyStopping'"),
        ("trainer.logger", True, "trainer.logger is set by tlkit"),
        ("trainer.default_root_dir", "x", "use --runs=DIR"),
        ("trainer.max_steps", "many", "trainer.max_steps must be int, got 'many'"),
        ("trainer.precision", "bf17", "unknown value for trainer.precision 'bf17': did you mean 'bf16'"),
        ("data.sources", "mnist", r"data.sources must be list\[str\], got 'mnist'"),
        ("data.batch_size", 2.5, "data.batch_size must be int, got 2.5"),
        ("data.sources", [1], r"data.sources must be list\[str\], got \[1\]: write \['1'\]"),
        ("data.hold_out", {"seed": "x"}, r"data.hold_out.seed must be int, got 'x'"),
        ("data.hold_out", {"sed": 1}, "data.hold_out: unknown argument of HoldOut 'sed': did you mean 'seed'"),
        ("model.optimizer.lr", "fast", "model.optimizer.lr must be float"),
        ("model.adaptation", "CORAL", r"model.adaptation takes a list, got one entry; write \[CORAL\]"),
        ("model.adaptation", {"class_path": "MMD"}, r"write \[MMD\]"),
        ("model.batch_norm", "joined", "did you mean 'joint'"),
        ("trainer", 3, "trainer must be a mapping"),
    ],
)
def test_refused(recipe, key, value, message):
    override(recipe, key, value)
    with pytest.raises(ConfigurationError, match=message):
        check_recipe(recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"modle": {}}, "unknown key of the recipe 'modle': did you mean 'model'"),
        ({"model": {}}, "has no 'model'"),
        ({"model": {"task": 1}}, "has no 'data'"),
        ({"model": 1, "data": 1, "logger": "wandbb"}, "unknown logger 'wandbb': did you mean 'wandb'"),
        ({"model": 1, "data": 1, "run_id": ""}, "run_id must be a name"),
        ({"model": 1, "data": 1, "run_id": 7}, 'run_id must be a name, got 7; in YAML write run_id: "7"'),
        ({"model": 1, "data": 1, "seed_everything": "x"}, "seed_everything must be a whole number"),
        ({"model": 1, "data": 1, "seed_everything": -1}, "seed_everything must be a whole number"),
    ],
)
def test_top_level(recipe, message):
    with pytest.raises(ConfigurationError, match=message):
        check_keys(recipe)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"unit": "msec"}, "unknown value for data.columns.unit 'msec': did you mean 'ms'"),
        ({"triads": [["x", 1]]}, "data.columns.triads must be"),
        ({"channels": "x"}, r"data.columns.channels must be list\[str\], got 'x'"),
        ({"chanels": ["x"]}, "data.columns: unknown argument of SeriesColumns 'chanels': did you mean 'channels'"),
        ({"channels": None}, "data.columns: SeriesColumns needs channels"),
    ],
)
def test_the_field_at_fault_is_named(recipe, columns, message):
    data = {"root": "r", "columns": {"channels": ["x"], **columns}, "sources": ["a"], "targets": ["b"]}
    recipe["data"] = {"class_path": "SeriesDomains", "init_args": data}
    with pytest.raises(ConfigurationError, match=message):
        check_recipe(recipe)
    del data["columns"]["channels"]
    data["columns"].pop("chanels", None)
    data["columns"].update(unit="s", triads=[])
    with pytest.raises(ConfigurationError, match=r"data.columns: SeriesColumns needs channels"):
        check_recipe(recipe)


def test_missing_arguments_are_named(recipe):
    recipe["data"] = "Digits"
    with pytest.raises(ConfigurationError, match="data: Digits needs sources"):
        check_recipe(recipe)


def test_arguments_of_parents_through_kwargs(recipe):
    recipe["data"]["init_args"]["hold_out"] = {"val_fraction": 0.2}  # of DomainDataModule, behind **kwargs of Digits
    assert check_recipe(recipe)["data"]["init_args"]["hold_out"] == {"val_fraction": 0.2}


def test_arguments_of_functions_behind_kwargs(recipe):
    recipe["model"]["backbone"] = {"class_path": f"{PATH}Opaque", "init_args": {"width": 3, "depth": 2}}
    assert check_recipe(recipe)["model"]["backbone"]["init_args"] == {"width": 3, "depth": 2}
    recipe["model"]["backbone"]["init_args"]["widht"] = 3
    with pytest.raises(ConfigurationError, match="did you mean 'width'"):
        check_recipe(recipe)


def test_parts_inside_parts(recipe):
    recipe["model"]["adaptation"] = [
        {
            "class_path": f"{PATH}Wrapper",
            "init_args": {"inner": "MMD", "teacher": "ConvNet", "note": "MMD", "weight": 2.0},
        }
    ]
    arguments = check_recipe(recipe)["model"]["adaptation"][0]["init_args"]
    assert arguments["inner"]["class_path"] == "tlkit.losses.MMD"
    assert arguments["teacher"]["class_path"] == "tlkit.backbones.ConvNet"
    assert arguments["note"] == "MMD"  # text stays text
    recipe["model"]["adaptation"][0]["init_args"]["inner"] = "ConvNet"
    with pytest.raises(ConfigurationError, match="inner: unknown adaptation loss 'ConvNet'"):
        check_recipe(recipe)
