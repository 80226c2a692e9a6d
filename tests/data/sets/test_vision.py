import dataclasses
import hashlib
import zipfile

import numpy as np
import pytest
import torch

from tests.data.image_sets import domainnet, noise, office31, office_home, pacs, visda2017
from tlkit.data import PACS, DomainNet, HoldOut, Office31, OfficeHome, VisDA2017
from tlkit.errors import DataError


def ready(module, *args, **kwargs):
    data = module(*args, **{"image_size": 16, "batch_size": 2, **kwargs})
    data.setup()
    return data


def test_office31_has_a_folder_of_images_in_between_or_not(tmp_path):
    data = ready(Office31, ["amazon"], ["dslr", "webcam"], **office31(tmp_path))
    assert data.spec().classes == ("back_pack", "bike")
    assert data.row_names("webcam")[21] == "webcam/bike/frame_0001.jpg"
    (tmp_path / "webcam" / "images").rename(tmp_path / "classes")
    (tmp_path / "webcam").rmdir()
    (tmp_path / "classes").rename(tmp_path / "webcam")
    again = ready(Office31, ["amazon"], ["dslr", "webcam"], root=str(tmp_path))
    assert again.row_names("webcam") == data.row_names("webcam")


def test_office_home_keeps_the_published_names(tmp_path):
    data = ready(OfficeHome, ["Art"], ["Real World"], **office_home(tmp_path))
    assert data.spec().domains == ("Art", "Real World")
    with pytest.raises(DataError, match="unknown domain 'Real_World': did you mean 'Real World'"):
        ready(OfficeHome, ["Art"], ["Real_World"], root=str(tmp_path))
    # as unpacked without the outer folder
    assert (
        ready(OfficeHome, ["Art"], root=str(tmp_path / "OfficeHomeDataset_10072016")).spec().classes[0] == "Alarm_Clock"
    )


@pytest.mark.parametrize("place", [".", "pacs/images", "kfold"])
def test_pacs_as_it_goes_round(tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    pacs(tmp_path / place)
    data = ready(PACS, ["photo"], ["cartoon"], root=str(tmp_path), hold_out=HoldOut(test_fraction=0.3))
    assert len(data.splits["cartoon"]["test"]) == 12
    assert len(data.splits["cartoon"]["train"]) == 28


def test_a_domain_that_is_not_here_is_fetched(tmp_path, monkeypatch):
    """The folder of three domains is left as it is; the archive's four are used when the fourth is asked for."""
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    (tmp_path / "PACS").mkdir()
    pacs(tmp_path / "PACS")
    with pytest.raises(
        DataError, match=r"PACS lacks pacs/images/photo, pacs/images/sketch: pacs.zip is not in .*drive"
    ):
        ready(PACS, ["photo"], ["sketch"])
    mine = str(tmp_path / "PACS")  # somebody's own copy of a part: nothing is fetched into it
    with pytest.raises(
        DataError, match=r"PACS lacks sketch \(it has photo, art_painting, cartoon\): put it there, or leave root out"
    ):
        ready(PACS, ["photo"], ["sketch"], root=mine)
    mirror = tmp_path / "mirror"
    for domain in PACS.domains:
        for name in ("dog", "guitar"):
            for i in range(10):
                noise(mirror / "pacs" / "images" / domain / name / f"pic_{i:03d}.jpg", i)
    with zipfile.ZipFile(mirror / "pacs.zip", "w") as bundle:
        for path in (mirror / "pacs").rglob("*.jpg"):
            bundle.write(path, path.relative_to(mirror))
    monkeypatch.setenv("TLKIT_MIRROR", str(mirror))
    with pytest.raises(DataError, match=r"pacs.zip from file.* has the sha256 sum .*wrong-sum"):
        ready(PACS, ["photo"], ["sketch"])
    sha256 = hashlib.sha256((mirror / "pacs.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(PACS, "published", dataclasses.replace(PACS.published, sha256=sha256))
    assert len(ready(PACS, ["photo"], ["sketch"]).row_names("sketch")) == 20
    assert len(ready(PACS, ["photo"], ["cartoon"]).row_names("cartoon")) == 20


def test_visda_takes_labels_from_its_lists(tmp_path):
    data = ready(VisDA2017, ["train"], ["validation"], also_test=["test"], **visda2017(tmp_path))
    assert len(data.spec().classes) == 12
    assert data.row_names("test")[:2] == [f"test/trunk01/{0:032x}.jpg", f"test/trunk02/{1:032x}.jpg"]
    batch = next(iter(data.test_dataloader()[2]))
    assert batch.y.tolist() == [2 + row % 2 for row in data.splits["test"]["test"][batch.index]]
    (tmp_path / "test_image_list.txt").unlink()
    with pytest.raises(DataError, match=r"test_image_list.txt is not in .*taskcv-2017-public"):
        ready(VisDA2017, ["train"], ["test"], root=str(tmp_path))
    lines = tmp_path / "validation" / "image_list.txt"
    lines.write_text(lines.read_text().replace("bus/frame_0003.jpg 2", "bus/frame_0003.jpg 12"))
    with pytest.raises(DataError, match=r"image_list.txt, line 4: expected a file and a number from 0 to 11, got 'bus"):
        ready(VisDA2017, ["train"], ["validation"], root=str(tmp_path))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing lacks train: train.tar is not in"):
        ready(VisDA2017, ["train"], ["validation"], root=str(tmp_path / "nothing"))


def test_domainnet_tests_on_the_published_rows(tmp_path):
    domainnet(tmp_path)
    train = tmp_path / "splits" / "painting_train.txt"
    train.write_text("".join(line for line in train.read_text().splitlines(True) if "t-shirt" not in line))
    data = ready(DomainNet, ["clipart"], ["painting"], root=str(tmp_path))
    assert data.spec().classes == ("aircraft_carrier", "t-shirt")
    for domain, count in (("clipart", 28), ("painting", 14)):
        names = np.array(data.row_names(domain))
        assert data.splits[domain]["test"].tolist() == list(range(count, count + 12))
        assert sorted(names[count:]) == sorted(
            line.split()[0] for line in (tmp_path / "splits" / f"{domain}_test.txt").read_text().splitlines()
        )
    x = data.dataset("painting", "test")
    assert torch.equal(torch.stack([x[i][1] for i in range(12)]), torch.tensor([0] * 6 + [1] * 6))
    (tmp_path / "splits" / "painting_test.txt").unlink()
    with pytest.raises(DataError, match=r"painting_test.txt is not in .*ai\.bu\.edu/M3SDA"):
        ready(DomainNet, ["clipart"], ["painting"], root=str(tmp_path))


def test_domainnet_is_checked_against_the_published_sums(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TLKIT_MIRROR", str(tmp_path))
    (tmp_path / "clipart.zip").write_bytes(b"the first version, not the cleaned one")
    with pytest.raises(DataError, match=r"clipart.zip from file.* published is cd0d8f2d77a4e181449b78ed62bccf1e"):
        ready(DomainNet, ["clipart"])
    (tmp_path / "mine").mkdir()
    domainnet(tmp_path / "mine")
    lists = tmp_path / "mine" / "splits"
    (lists / "clipart_test.txt").rename(tmp_path / "clipart_test.txt")
    with pytest.raises(DataError, match=r"clipart_test.txt from .* published is f5ddbcfd657a3acf9d0f7da10db22565"):
        ready(DomainNet, ["clipart"], root=str(tmp_path / "mine"))


def test_the_real_pacs(tlkit_data):
    data = PACS(["photo"], ["art_painting"], also_test=["cartoon"], image_size=96, hold_out=HoldOut(test_fraction=0.3))
    data.setup()
    held = {domain: len(data.splits[domain]["test"]) for domain in data.eval_domains}
    assert held == {"photo": 501, "art_painting": 614, "cartoon": 703}
    assert len(data.splits["art_painting"]["train"]) == 2048 - 614
