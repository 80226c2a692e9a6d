"""The README's examples run as they stand, and its tables name what there is."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim import AdamW

import tlkit.backbones
import tlkit.data
import tlkit.finetuning
import tlkit.losses
import tlkit.tasks
from tlkit import TransferModule
from tlkit.backbones import MLP
from tlkit.cli.main import main
from tlkit.cli.names import SLOTS, import_class
from tlkit.cli.recipes import find_recipe
from tlkit.cli.shell import TransferCLI
from tlkit.schedules import DannRamp
from tlkit.tasks import Classification

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = EXAMPLES[number].replace("max_steps=600", "max_steps=20")  # only the length, to spare time
    namespace = {"__name__": "readme"}
    exec(compile(code, f"README.md example {number}", "exec"), namespace)
    trainer = namespace.get("trainer")
    if trainer is not None:
        assert trainer.global_step > 0


def test_there_are_examples_of_each_part():
    assert len(EXAMPLES) == 5
    assert "@@" not in README  # a figure that was still to be filled in


def test_optimizer_and_schedules_in_yaml_are_those_in_python():
    section = README.partition("### Optimizer and schedules")[2].partition("\n### ")[0]
    recipe = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)[1])
    recipe["data"] = {"class_path": "Digits", "init_args": {"sources": ["mnist"], "targets": ["optdigits"]}}
    cli = TransferCLI(recipe)
    inside = {"__name__": "readme"}
    exec(re.search(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)[1], inside)
    made = [
        (model.lr_schedule, model.optimizer([torch.nn.Parameter(torch.zeros(1))]))
        for model in (cli.model, inside["model"])
    ]
    (schedule, optimizer), (other_schedule, other_optimizer) = made
    assert (type(schedule), vars(schedule)) == (type(other_schedule), vars(other_schedule))
    assert (type(optimizer), optimizer.defaults) == (type(other_optimizer), other_optimizer.defaults)
    weights = [vars(loss.weight) for model in (cli.model, inside["model"]) for _, loss in model.losses()]
    assert weights == 2 * [vars(DannRamp(high=0.5))]
    plain = TransferModule(MLP(4), Classification())
    assert plain.optimizer is AdamW
    assert plain.lr_schedule is None


def test_a_checkpoint_is_chosen_by_the_score_that_is_named(tmp_path):
    command = re.search(r"^tlkit fit (.*--trainer\.callbacks=ModelSelection) \\\n  (\S+)$", README, flags=re.MULTILINE)
    options = [*command[1].split(), command[2]]
    small = [
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=1",
        "--trainer.accelerator=cpu",
        f"--runs={tmp_path}",
    ]
    assert main(["fit", *options, *small, "--run_id=r"]) == 0
    (run,) = tmp_path.rglob("r")
    selection = json.loads((run / "summary.json").read_text())["selection"]
    assert selection["monitor"] == "selection/source_accuracy"
    assert not selection["uses_target_labels"]
    for after in ("test", "validate", "predict"):
        assert main([after, "--config", str(run / "config.yaml")]) == 0
    assert sorted(file.name for file in (run / "predictions").iterdir()) == ["mnist.csv", "optdigits.csv"]


@pytest.mark.parametrize("package", [tlkit.losses, tlkit.backbones, tlkit.data, tlkit.tasks, tlkit.finetuning])
def test_the_tables_name_every_public_class(package):
    cells = " ".join(re.findall(r"^\| (`[^|]*) \|", README, flags=re.MULTILINE))
    public = {name for name in package.__all__ if issubclass_of_a_slot(getattr(package, name))}
    assert public
    assert not {name for name in public if f"`{name}`" not in cells}


def issubclass_of_a_slot(found):
    bases = {import_class(slot.base, "here") for slot in SLOTS}
    return isinstance(found, type) and found not in bases and issubclass(found, tuple(bases))


def test_every_recipe_it_names_exists():
    kinds = "digits|vision|retrieval|text|sensors|wifi|medical"
    named = set(re.findall(rf"(?:--config[ =]|tlkit copy |`)((?:{kinds})/\w+)", README))
    for page in (ROOT / "docs").glob("*.md"):
        named |= set(re.findall(rf"--config[ =]((?:{kinds})/\w+)", page.read_text()))
    assert named
    for name in named:
        assert find_recipe(name).is_file()
