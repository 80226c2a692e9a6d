"""Every recipe snippet of docs/finetuning.md is understood, and the page names what there is."""

import re
from pathlib import Path

import pytest
import yaml

import tlkit.finetuning
from tests.cli.conftest import RECIPE
from tlkit.cli.main import main
from tlkit.finetuning import FineTuning

PAGE = (Path(__file__).parents[1] / "docs" / "finetuning.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def merged(base, changes):
    both = isinstance(base, dict) and isinstance(changes, dict) and "class_path" not in changes
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}} if both else changes


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, tmp_path, capsys):
    snippet = yaml.safe_load(SNIPPETS[number])
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(merged(yaml.safe_load(RECIPE), snippet)))
    assert main(["fit", "--config", str(file), "--print_config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    for part, given in snippet.items():
        for key, value in given.items():
            assert resolved[part][key] or value is None


def test_every_strategy_has_a_snippet():
    classes = [getattr(tlkit.finetuning, name) for name in tlkit.finetuning.__all__]
    strategies = [each.__name__ for each in classes if isinstance(each, type) and issubclass(each, FineTuning)]
    assert len(strategies) == 6
    for name in [*strategies, "L2SP", "BSS", "DELTA"]:
        assert name == "FineTuning" or any(name in snippet for snippet in SNIPPETS), name
