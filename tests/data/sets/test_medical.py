import shutil

import numpy as np
import pytest
import torch

from tests.data import medical_files
from tlkit.data import OCT, ChestXRay, HoldOut, MedMNIST
from tlkit.errors import DataError


def ready(module, folder, write, **kwargs):
    data = module(**{**write(folder), "batch_size": 8, **kwargs})
    data.setup()
    return data


def patients(data, domain):
    """Return the patients of each split."""
    groups = np.array(data.listing(domain).groups)
    return {split: set(groups[rows]) for split, rows in data.splits[domain].items()}


def assert_apart(data, domain):
    found = patients(data, domain)
    assert not found["train"] & found["val"] or domain in data.targets  # which are validated on without labels
    assert not (found["train"] | found["val"]) & found["test"]


def test_chest_xray_as_copies_name_it(tmp_path):
    data = ready(ChestXRay, tmp_path, medical_files.chest_xray, sources=["chest_xray"], image_size=16)
    assert data.spec().classes == ("NORMAL", "PNEUMONIA")
    names = np.array(data.row_names("chest_xray"))
    assert len(names) == 35 * 8
    assert all(name.startswith("test/") for name in names[data.splits["chest_xray"]["test"]])
    assert len(data.splits["chest_xray"]["test"]) == 11 * 8
    assert_apart(data, "chest_xray")
    everyone = set.union(*patients(data, "chest_xray").values())
    assert {"person100_bacteria", "person100_virus", "IM-0100", "NORMAL2-IM-0100"} <= everyone
    assert len(everyone) == 35 * 4
    batch = next(iter(data.train_dataloader()))
    assert batch.source.x.shape == (8, 3, 16, 16)
    assert torch.equal(batch.source.x[:, 0], batch.source.x[:, 2])  # grey


def test_images_and_labels_are_those_of_the_files(tmp_path):
    data = ready(ChestXRay, tmp_path, medical_files.chest_xray, sources=["chest_xray"], image_size=16)
    names = np.array(data.row_names("chest_xray"))[data.splits["chest_xray"]["test"]]
    for batch in data.test_dataloader()[0]:
        for x, y, name in zip(batch.x, batch.y, names[batch.index], strict=True):
            part, folder, file = name.split("/")
            assert (part, ("NORMAL", "PNEUMONIA")[y]) == ("test", folder)
            if y:
                level = int(file.rpartition("_")[2].removesuffix(".jpeg"))
                assert x.mean().item() * 255 == pytest.approx(level, abs=2)


def test_kinds_of_pneumonia_share_no_image_and_every_healthy_patient_is_in_one(tmp_path):
    arguments = {"sources": ["bacteria"], "targets": ["virus"], "image_size": 16}
    data = ready(ChestXRay, tmp_path, medical_files.chest_xray, **arguments)
    bacteria, virus = (set(data.row_names(domain)) for domain in ("bacteria", "virus"))
    assert not bacteria & virus
    assert len(bacteria | virus) == 35 * 8
    ill = [name for name in bacteria if "PNEUMONIA" in name]
    assert all("bacteria" in name for name in ill)
    assert 0.3 < len([name for name in bacteria if "NORMAL/" in name]) / (35 * 4) < 0.7
    for domain in ("bacteria", "virus"):
        assert_apart(data, domain)
    again = ChestXRay(root=str(tmp_path), sources=["virus"], image_size=16)
    assert list(again.row_names("virus")) == list(data.row_names("virus"))


def test_chest_xray_as_its_archive_names_it(tmp_path):
    data = ready(ChestXRay, tmp_path, medical_files.chest_xray_archive, sources=["chest_xray"], image_size=16)
    names = data.row_names("chest_xray")
    assert len(names) == 32 * 3 + 7 * 3  # patient 7 of each kind is in the test, and not trained on
    assert not any("train" in name and name.endswith(("-7-0001.jpeg", "-1007-0001.jpeg")) for name in names)
    assert_apart(data, "chest_xray")
    assert data.folder == tmp_path / "chest_xray"


def test_the_sixteen_images_that_copies_hold_out_are_training_images(tmp_path):
    files = medical_files.chest_xray(tmp_path)
    medical_files.grey(tmp_path / "val" / "NORMAL" / "NORMAL2-IM-1427-0001.jpeg", 9)
    data = ChestXRay(**files, sources=["chest_xray"], image_size=16)
    data.setup()
    number = list(data.row_names("chest_xray")).index("val/NORMAL/NORMAL2-IM-1427-0001.jpeg")
    assert number in data.splits["chest_xray"]["reference"]


def test_oct_leaves_out_training_scans_of_patients_of_the_test(tmp_path):
    data = ready(OCT, tmp_path, medical_files.oct_scans, sources=["oct"], image_size=16)
    assert data.spec().classes == ("CNV", "DME", "DRUSEN", "NORMAL")
    assert len(data.splits["oct"]["test"]) == 4 * 5
    assert len(data.splits["oct"]["reference"]) == 4 * 11 * 3
    assert_apart(data, "oct")
    found = patients(data, "oct")
    assert "5" in found["test"]  # one patient whatever the class of the scan
    assert len(set.union(*found.values())) == 16


def test_medmnist_has_its_published_splits_and_pixels(tmp_path):
    data = ready(MedMNIST, tmp_path, medical_files.medmnist, sources=["octmnist"], batch_size=4)
    assert data.spec().classes == ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")
    splits = {split: rows.tolist() for split, rows in data.splits["octmnist"].items()}
    assert splits["train"] == list(range(40))
    assert splits["val"] == list(range(40, 52))
    assert splits["test"] == list(range(52, 68))
    batch = next(iter(data.test_dataloader()[0]))
    assert torch.allclose(batch.x.mean((1, 2, 3)) * 255, torch.arange(52.0, 56.0))
    assert batch.x.shape == (4, 3, 28, 28)
    assert batch.y.tolist() == [0, 1, 2, 3]
    target = MedMNIST(root=str(tmp_path), sources=[], targets=["octmnist"])
    target.dataset("octmnist", "train")
    assert target.splits["octmnist"]["train"].tolist() == list(range(52))


def test_medmnist_is_resized(tmp_path):
    data = ready(MedMNIST, tmp_path, medical_files.medmnist, sources=["pneumoniamnist"], image_size=56, channels=1)
    batch = next(iter(data.train_dataloader()))
    assert batch.source.x.shape == (8, 1, 56, 56)


def test_what_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds the rows of 'bacteria' and 'virus'"):
        ready(ChestXRay, tmp_path, medical_files.chest_xray, sources=["chest_xray"], targets=["virus"])
    stranger = tmp_path / "train" / "PNEUMONIA" / "image1.jpeg"
    medical_files.grey(stranger, 0)
    with pytest.raises(DataError, match=f"{stranger}: no patient in the name"):
        ChestXRay(root=str(tmp_path), sources=["chest_xray"]).setup()
    stranger.rename(tmp_path / "train" / "PNEUMONIA" / "IM-0900-0001.jpeg")
    with pytest.raises(DataError, match="says neither bacteria nor virus"):
        ChestXRay(root=str(tmp_path), sources=["bacteria"]).setup()
    with pytest.raises(DataError, match="must have the same classes"):
        MedMNIST(**medical_files.medmnist(tmp_path), sources=["octmnist"], targets=["pneumoniamnist"]).setup()
    path = tmp_path / "octmnist.npz"
    for content in (b"", b"PK\x03\x04 but no zip", b"\x93NUMPY", None):
        path.write_bytes(content) if content is not None else np.savez(path, images=np.zeros(3))
        with pytest.raises(DataError, match=r"octmnist\.npz is no file of MedMNIST"):
            MedMNIST(root=str(tmp_path), sources=["octmnist"]).setup()


def test_the_archives_are_fetched_from_a_mirror(tmp_path, monkeypatch):
    """The published archive, made small, is unpacked once and found again."""
    mirror, data_folder = tmp_path / "mirror", tmp_path / "data"
    medical_files.chest_xray_archive(tmp_path / "made")
    mirror.mkdir()
    shutil.make_archive(str(mirror / "ChestXRay2017"), "zip", tmp_path / "made")
    monkeypatch.setenv("TLKIT_MIRROR", str(mirror))
    monkeypatch.setenv("TLKIT_DATA", str(data_folder))
    for _ in range(2):
        data = ChestXRay(sources=["chest_xray"], image_size=16)
        data.setup()
        assert len(data.row_names("chest_xray")) == 32 * 3 + 7 * 3
        shutil.rmtree(mirror, ignore_errors=True)
        monkeypatch.delenv("TLKIT_MIRROR", raising=False)


def test_without_the_files_it_says_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"OCT2017.tar.gz from Mendeley Data, doi 10\.17632/rscbjbr9sj\.2"):
        OCT(sources=["oct"]).setup()
    with pytest.raises(DataError, match=r"octmnist.npz is not in .*It is in the record 10.5281/zenodo.10519652, and"):
        MedMNIST(sources=["octmnist"]).setup()


def test_the_real_chest_xrays(tlkit_data):
    data = ChestXRay(
        root=str(tlkit_data / "chest_xray"),
        sources=["chest_xray"],
        image_size=64,
        hold_out=HoldOut(val_fraction=0.1),
        label_fraction=0.01,
    )
    data.setup()
    sizes = {split: len(rows) for split, rows in data.splits["chest_xray"].items()}
    assert sizes["test"] == 624
    assert 460 <= sizes["val"] <= 580
    assert 40 <= sizes["train"] <= 56  # a hundredth of the 4,700 others, in whole patients
    assert_apart(data, "chest_xray")
    whole = ChestXRay(root=str(tlkit_data / "chest_xray"), sources=["bacteria"], targets=["virus"], image_size=64)
    whole.setup()
    assert sum(len(whole.row_names(domain)) for domain in ("bacteria", "virus")) == 5216 + 624
    for domain in ("bacteria", "virus"):
        assert_apart(whole, domain)
