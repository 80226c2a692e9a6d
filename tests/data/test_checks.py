import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.data.image_sets import image_table
from tests.data.recording_files import series_table
from tests.data.scan_files import office
from tests.data.settings import image_folders
from tests.data.text_files import text_table
from tlkit.data import (
    PACS,
    FingerprintDomains,
    ImageFolderDomains,
    ImageTableDomains,
    SeriesColumns,
    SeriesDomains,
    TextDomains,
)
from tlkit.data.checks import check_classes, check_domains, check_roles, check_values
from tlkit.errors import DataError


def refuses(message):
    return pytest.raises(DataError, match=message)


def test_roles():
    check_roles(["a"], ["b"], ["c"])
    check_roles(["a"], [], [])
    check_roles([], ["b"], [])
    with refuses("domain 'a' is both in sources and in targets"):
        check_roles(["a"], ["a"], [])
    with refuses("domain 'b' is both in targets and in also_test"):
        check_roles(["a"], ["b"], ["b"])
    with refuses("domain 'a' is twice in sources"):
        check_roles(["a", "a"], [], [])
    with refuses(r"targets is a list of domain names, got the string 'usps': write targets=\['usps'\]"):
        check_roles(["mnist"], "usps", [])
    with refuses("sources: the name of a domain is text, got 1: write '1', in quotes"):
        check_roles([1], ["a"], [])
    with refuses("sources and targets are both empty"):
        check_roles([], [], ["a"])


def test_unknown_domain_shows_near_names():
    with refuses("targets: unknown domain 'optdigit': did you mean 'optdigits'"):
        check_domains({"sources": ["mnist"], "targets": ["optdigit"]}, ["mnist", "optdigits"])


def test_classes():
    check_classes({"a": ["cat", "dog"], "b": ["cat", "dog"]})
    check_classes({"a": [], "b": []})
    with refuses("all labels of this run are 'cat': there is nothing to tell apart with one class.* Classes are read"):
        check_classes({"a": ["cat"], "b": ["cat"]}, where=lambda what: f"{what}.csv")
    with refuses("domains 'a' and 'b' have no class in common: cat, dog against car, van"):
        check_classes({"a": ["cat", "dog"], "b": ["car", "van"]})
    with refuses(r"got a 2, b 3 classes: 'a' lacks pig\. Leave out"):
        check_classes({"a": ["cat", "dog"], "b": ["cat", "dog", "pig"]})
    with refuses("'a' lacks pig; 'b' lacks dog"):
        check_classes({"a": ["cat", "dog"], "b": ["cat", "pig"]})
    with refuses("same classes in another order: cat, dog against dog, cat"):
        check_classes({"a": ["cat", "dog"], "b": ["dog", "cat"]})
    with refuses("a 20, b 1 classes: 'b' lacks 1, 2, 3, 4, 5, 6, 7, 8 and 11 more"):
        check_classes({"a": [str(i) for i in range(20)], "b": ["0"]})


def change(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def fingerprints(root):
    files = office(root)
    change(root / "office.csv", ",south,", ",east,")
    lines = (root / "office.csv").read_text().splitlines()
    (root / "office.csv").write_text("\n".join(line for line in lines if ",east," not in line or "old" in line))
    arguments = {**files, "sources": ["old"], "targets": ["new"], "label": "building"}
    return FingerprintDomains, arguments, "office.csv, column 'phone'", "office.csv, column 'house'"


def series(root):
    files = series_table(root)
    lines = (root / "all.csv").read_text().splitlines()
    (root / "all.csv").write_text("\n".join(line for line in lines if "rest" not in line or "hip" in line))
    columns = SeriesColumns(**files["columns"])
    arguments = {"root": files["root"], "columns": columns, "sources": ["hip"], "targets": ["wrist"]}
    return SeriesDomains, arguments, f"files of {root}, column 'place'", f"files of {root}, column 'activity'"


def series_paths(root):
    files = series_table(root)
    for place, label in (("hip", "walk"), ("hip", "rest"), ("wrist", "walk")):
        (root / place).mkdir(exist_ok=True)
        (root / place / f"{label}.csv").write_text((root / "all.csv").read_text())
    (root / "all.csv").unlink()
    columns = SeriesColumns(files["columns"]["channels"], path=r"(?P<label>[a-z]+)\.csv")
    arguments = {"root": files["root"], "columns": columns, "sources": ["hip"], "targets": ["wrist"]}
    return SeriesDomains, arguments, "the first folder of each path", "the group 'label' of columns.path"


def folders(root):
    files = image_folders(root)
    shutil.rmtree(root / "sketch" / "dog")
    arguments = {**files, "sources": ["photo"], "targets": ["sketch"]}
    return ImageFolderDomains, arguments, f"the folders {root}/*", f"the folders {root}/<domain>/*"


def images(root):
    files = image_table(root)
    table = Path(files["table"])
    frame = pd.read_csv(table)
    frame[(frame["label"] != frame["label"].iloc[0]) | (frame["domain"] == "north")].to_csv(table, index=False)
    arguments = {**files, "sources": ["north"], "targets": ["south"]}
    return ImageTableDomains, arguments, f"{table}, column 'domain'", f"{table}, column 'label'"


def texts(root):
    files = text_table(root)
    return TextDomains, {**files, "sources": ["electronics"], "targets": ["dvd"]}, "column 'domain'", ""


@pytest.mark.parametrize("write", [fingerprints, series, series_paths, folders, images, texts])
def test_where_domains_and_classes_are_read_from_is_said(tmp_path, write):
    module, arguments, domains, classes = write(tmp_path)
    with pytest.raises(DataError) as caught:
        module(**{**arguments, "targets": [f"{arguments['targets'][0]}x"]}).setup()
    assert f"did you mean {arguments['targets'][0]!r}" in str(caught.value)
    assert " Domains are read from " in str(caught.value)
    assert str(caught.value).endswith(domains)
    if classes:
        with pytest.raises(DataError, match="must have the same classes") as caught:
            module(**arguments).setup()
        assert " Classes are read from " in str(caught.value)
        assert str(caught.value).endswith(classes)


def test_a_published_set_is_not_fetched_to_say_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    with refuses(
        "sources: unknown domain 'foto': did you mean 'photo'.* Allowed: art_painting, cartoon, photo, sketch.$"
    ):
        PACS(["foto"]).setup()


def test_inputs_that_are_no_tensors():
    with refuses("domain 'a', train split: x must be a tensor, got a list of str for a batch"):
        check_values("a", "train", ["a good book", "a bad one"], None, 0)
    with refuses("train split: text must be a tensor, got a tuple of str"):
        check_values("a", "train", {"text": ("a good book",)}, None, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_values_that_are_not_finite(bad, dtype):
    x = torch.zeros(5, 2, 3, dtype=dtype)
    x[3, 1, 1] = bad
    with refuses(r"domain 'a', train split, index 3: x holds NaN or infinity \(1 of 5 rows"):
        check_values("a", "train", x, None, 0)
    with refuses("index 13: x"):
        check_values("a", "train", x, None, 0, torch.arange(10, 15))
    with refuses("index 3: signal holds"):
        check_values("a", "train", {"signal": x}, None, 0)
    with refuses("index 3: y holds"):
        check_values("a", "train", torch.zeros(5), x[:, 1, 1], 0)


def test_a_sum_that_overflows_is_no_fault():
    check_values("a", "train", torch.full((4, 2), 3e38), None, 0)
    check_values("a", "train", torch.full((4, 20000), 100.0, dtype=torch.float16), None, 0)


def test_labels():
    x = torch.zeros(3, 1)
    check_values("a", "test", x, torch.tensor([0, 2, 1]), 3)
    check_values("a", "test", x, torch.tensor([0.5, 2, 1]), 0)
    check_values("a", "test", x, torch.tensor([[0.0, 1], [1, 1], [1, 0]]), 2)
    with refuses("domain 'a', test split, index 1: the label is 3, but with 3 classes labels are integers from 0 to 2"):
        check_values("a", "test", x, torch.tensor([0, 3, 1]), 3)
    with refuses("index 2: the label is -1"):
        check_values("a", "test", x, torch.tensor([0, 2, -1]), 3)
    with refuses("index 0: the label is .0, 2."):
        check_values("a", "test", x, torch.tensor([[0, 2], [0, 0], [1, 1]]), 2)
    with refuses("labels of 3 classes are integers from 0 to 2, got torch.float32"):
        check_values("a", "test", x, torch.zeros(3), 3)
