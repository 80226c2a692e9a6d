"""What docs/data_scale.md says of shards runs: its Python, and its recipe on the shards that this writes."""

import re
from pathlib import Path

import yaml

from tlkit.cli.check import check_data
from tlkit.data import ArrayShardDomains

PAGE = (Path(__file__).parents[1] / "docs" / "data_scale.md").read_text(encoding="utf-8")


def test_the_python_of_the_page(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    data = ArrayShardDomains("shards", ["wrist"])
    data.setup()
    assert next(iter(data.train_dataloader())).source.x.shape == (32, 6, 128)
    assert len(data.splits["wrist"]["train"]) + len(data.splits["wrist"]["val"]) < 1000


def test_the_recipe_of_the_page():
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    resolved = check_data(yaml.safe_load(recipe)["data"])
    assert resolved["class_path"] == "tlkit.data.ImageShardDomains"
