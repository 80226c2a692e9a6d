import hashlib
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

import tlkit.data.sets.ujiindoorloc
from tests.data.scan_files import ujiindoorloc, ujiindoorloc_frame
from tlkit.data import HoldOut, UJIIndoorLoc
from tlkit.data.files.fetch import Published
from tlkit.errors import DataError


def opened(root, sources=("training",), targets=("validation",), **arguments):
    return UJIIndoorLoc(list(sources), list(targets), **{**ujiindoorloc(root), "batch_size": 4, **arguments})


def test_all_scans_of_a_target_are_its_test_rows_and_unlabelled_its_training_rows(tmp_path):
    data = opened(tmp_path)
    data.setup()
    assert all(np.array_equal(data.splits["validation"][split], np.arange(60)) for split in ("train", "val", "test"))
    source = data.splits["training"]
    assert len(np.concatenate([source["train"], source["val"], source["test"]])) == 200
    assert len(source["test"]) == 10
    assert next(iter(data.train_dataloader())).target.y is None
    x, y = data.dataset("validation", "test")[17]
    frame = ujiindoorloc_frame("validation", 60)
    place = frame.loc[17, ["LONGITUDE", "LATITUDE"]].to_numpy() - np.array([-7700.0, 4864700.0])
    assert y.numpy() == pytest.approx(place, abs=1e-4)
    heard = frame.loc[17, [f"WAP{i:03d}" for i in range(1, 521)]].to_numpy() != 100
    assert torch.equal(x > 0, torch.tensor(heard))
    assert data.row_names("validation")[17] == "validationData.csv, line 19"


def test_inductive_holds_half_of_the_walks_back_whatever_the_role(tmp_path):
    files = ujiindoorloc(tmp_path)
    one = UJIIndoorLoc(["training"], ["validation"], protocol="inductive", batch_size=4, **files)
    two = UJIIndoorLoc(["validation"], protocol="inductive", batch_size=4, **files)
    one.setup()
    two.setup()
    held = one.splits["validation"]["test"]
    assert np.array_equal(held, two.splits["validation"]["test"])
    assert 20 <= len(held) <= 40
    walk = np.arange(60) // 5  # five scans, 10 seconds apart; 400 seconds between walks
    assert not set(walk[held]) & set(walk[one.splits["validation"]["train"]])


def test_visits_of_the_survey_are_not_divided(tmp_path):
    data = opened(tmp_path, hold_out=HoldOut(val_fraction=0.3, test_fraction=0.3))
    data.setup()
    frame = ujiindoorloc_frame("training", 200)
    visit = frame.groupby(["USERID", "PHONEID", "BUILDINGID", "FLOOR", "LONGITUDE", "LATITUDE"]).ngroup().to_numpy()
    train, val, test = (set(visit[data.splits["training"][split]]) for split in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test


def test_domains_are_files_phones_users_and_buildings_of_both_or_of_one(tmp_path):
    data = opened(tmp_path)
    assert list(data.domains[:2]) == ["training", "validation"]
    assert {"phone-13", "phone-20", "user-00", "user-02", "building-1", "validation/phone-20"} <= set(data.domains)
    assert "training/phone-20" not in data.domains
    frames = {period: ujiindoorloc_frame(period, rows) for period, rows in (("training", 200), ("validation", 60))}
    of_phone = {period: int((frame["PHONEID"] == 13).sum()) for period, frame in frames.items()}
    assert len(data.scans("phone-13").names) == sum(of_phone.values())
    assert len(data.scans("validation/phone-13").names) == of_phone["validation"]
    assert len(data.scans("training/user-02").names) == int((frames["training"]["USERID"] == 2).sum())


def test_domains_that_share_scans_are_refused(tmp_path):
    files = ujiindoorloc(tmp_path)
    message = r"'training' and 'phone-13' share scans \(trainingData.csv, line 7, for one\)"
    with pytest.raises(DataError, match=message):
        UJIIndoorLoc(["training"], ["phone-13"], **files).setup()
    UJIIndoorLoc(["training"], ["validation/phone-13"], batch_size=2, **files).setup()


def test_floor_and_building_are_the_published_classes(tmp_path):
    data = opened(tmp_path, label="building_floor")
    assert len(data.classes) == 13
    assert data.classes[4:9] == ("1/0", "1/1", "1/2", "1/3", "2/0")
    data.setup()
    frame = ujiindoorloc_frame("validation", 60)
    names = [data.classes[int(y)] for _, y in data.dataset("validation", "test")]
    assert names == [f"{row.BUILDINGID}/{row.FLOOR}" for row in frame.itertuples()]
    assert opened_classes(tmp_path, "floor") == tuple("01234")
    assert opened_classes(tmp_path, "building") == tuple("012")


def opened_classes(root, label):
    return UJIIndoorLoc(["training"], root=str(root / "UJIndoorLoc"), label=label).classes


def test_labels_of_test_rows_cannot_be_trained_on(tmp_path):
    with pytest.raises(DataError, match=r"labels of 'validation/phone-20' are to be trained on.*protocol: inductive"):
        opened(tmp_path, ["training", "validation/phone-20"], ["validation/phone-13"])
    with pytest.raises(DataError, match="labels of 'validation' are to be trained on"):
        UJIIndoorLoc(["training"], ["validation"], label_fraction={"validation": 0.1})
    with pytest.raises(DataError, match="unknown protocol 'inductiv': did you mean 'inductive'"):
        UJIIndoorLoc(["training"], protocol="inductiv")


def test_a_broken_file_is_named(tmp_path):
    ujiindoorloc(tmp_path)
    path = tmp_path / "UJIndoorLoc" / "validationData.csv"
    frame = pd.read_csv(path)
    for column, value, message in (
        ("WAP003", 17, "line 4, column 'WAP003': 17 is neither a signal strength from -104 to 0 dBm nor 100"),
        ("LATITUDE", np.nan, "line 4, column 'LATITUDE': expected a number, got nothing"),
    ):
        changed = frame.astype({column: float})
        changed.loc[2, column] = value
        changed.to_csv(path, index=False)
        with pytest.raises(DataError, match=message):
            UJIIndoorLoc(["training"], root=str(tmp_path)).setup()
    frame.drop(columns="WAP520").to_csv(path, index=False)
    with pytest.raises(DataError, match="has no column 'WAP520'"):
        UJIIndoorLoc(["training"], root=str(tmp_path)).setup()


def test_it_is_fetched_from_a_mirror_as_published(tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "made").mkdir()
    ujiindoorloc(tmp_path / "made")
    archive = tmp_path / "mirror" / "ujiindoorloc.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for file in (tmp_path / "made" / "UJIndoorLoc").iterdir():
            bundle.write(file, f"UJIndoorLoc/{file.name}")
    published = tlkit.data.sets.ujiindoorloc._ARCHIVE
    sum_ = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(tlkit.data.sets.ujiindoorloc, "_ARCHIVE", Published(published.name, published.url, sha256=sum_))
    monkeypatch.setenv("TLKIT_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    assert len(UJIIndoorLoc(["training"]).scans("validation").names) == 60
    assert (tmp_path / "data" / "UJIndoorLoc" / "trainingData.csv").is_file()


def test_the_real_files(tlkit_data):
    data = UJIIndoorLoc(["training"], ["validation"], root=str(tlkit_data))
    data.setup()
    assert len(data.row_names("training")) == 19937
    assert len(data.splits["validation"]["test"]) == 1111
    assert {"phone-13", "user-18", "user-00", "building-2"} <= set(data.domains)
    x, y = (torch.stack(each) for each in zip(*data.dataset("validation", "test"), strict=True))
    assert x.shape == (1111, 520)
    assert (x > 0).sum(1).float().mean().item() == pytest.approx(16.475, abs=1e-3)
    assert y.min() > 0
    assert y.max() < 410
    assert len(np.unique(data.scans("training").groups)) == 1801
    assert len(np.unique(data.scans("validation").groups)) == 233
    classes = UJIIndoorLoc(["training"], ["validation"], root=str(tlkit_data), label="building_floor")
    classes.setup("test")
    labels = np.array([int(label) for _, label in classes.dataset("validation", "test")])
    assert len(labels) == 1111
    assert np.bincount(labels, minlength=13).min() > 0
