"""The README's examples run as they stand, and its tables name what there is."""

import re
from pathlib import Path

import pytest

import tlkit.backbones
import tlkit.data
import tlkit.finetuning
import tlkit.losses
import tlkit.tasks
from tlkit.cli.names import SLOTS, import_class
from tlkit.cli.recipes import find_recipe

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
    assert len(EXAMPLES) == 4
    assert "@@" not in README  # a figure that was still to be filled in


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
