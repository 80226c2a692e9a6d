import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tlkit.data import ImageFolderDomains
from tlkit.errors import DataError


@pytest.fixture
def root(tmp_path):
    """Two domains, two classes, 20 images each of odd sizes and modes; image i of a domain is grey level 5 * i."""
    for domain in ("photo", "sketch"):
        for c, name in enumerate(("cat", "dog")):
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            for i in range(20):
                mode, ending = [("RGB", "png"), ("L", "PNG"), ("RGBA", "png"), ("RGB", "jpeg")][i % 4]
                size = (30 + i, 40) if c else (40, 30 + i)
                level = 5 * i if mode == "L" else (5 * i,) * len(mode)
                Image.new(mode, size, level).save(folder / f"{i:02d}.{ending}")
            (folder / "Thumbs.db").write_text("not an image")
            (folder / ".hidden.png").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("two domains")
    return tmp_path


def open_folder(root, *args, **kwargs):
    data = ImageFolderDomains(str(root), *args, **{"image_size": 16, "batch_size": 4, **kwargs})
    data.setup()
    return data


def test_domains_classes_and_rows(root):
    data = open_folder(root, ["photo"], ["sketch"])
    assert data.domains == ["photo", "sketch"]
    assert data.spec().classes == ("cat", "dog")
    assert len({row for rows in data.splits["photo"].values() for row in rows}) == 40
    batch = next(iter(data.train_dataloader()))
    assert batch.source.x.shape == batch.target.x.shape == (4, 3, 16, 16)
    assert batch.source.x.dtype == torch.float32
    assert type(batch.source.x) is torch.Tensor
    assert batch.target.y is None


def test_images_deeper_in_a_class_folder_are_of_the_class(root, caplog):
    (root / "photo" / "cat" / "2024" / "may").mkdir(parents=True)
    shutil.copy(root / "photo" / "cat" / "00.png", root / "photo" / "cat" / "2024" / "may" / "a.png")
    with caplog.at_level("INFO"):
        data = open_folder(root, ["photo"], ["sketch"])
    assert len(data.row_names("photo")) == 41
    assert "photo/cat/2024/may/a.png" in data.row_names("photo")[:21]
    assert "domain 'photo': 2 files are passed over, they have no image's ending" in caplog.text


def test_values_and_labels_are_those_of_the_files(root):
    data = open_folder(root, ["photo"])
    for batch in data.test_dataloader()[0]:
        rows = data.splits["photo"]["test"][batch.index]
        assert batch.y.tolist() == [int(row >= 20) for row in rows]
        level = torch.tensor(5 * (rows % 20) / 255, dtype=torch.float32)
        assert torch.allclose(batch.x.mean((1, 2, 3)), level, atol=0.01)


def test_evaluation_takes_the_centre_and_training_a_random_crop_that_may_be_flipped(tmp_path):
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None] * 4, 64, axis=0)
    for name in ("a", "b"):
        (tmp_path / "photo" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(ramp).save(tmp_path / "photo" / name / f"{i}.png")
    data = open_folder(tmp_path, ["photo"], image_size=56)
    evaluated = next(iter(data.test_dataloader()[0])).x
    # 56 * 8/7 = 64, so nothing is resized: the centre leaves 4 columns on each side
    assert torch.allclose(evaluated[0, 0, 0] * 255, torch.arange(4, 60) * 4.0)
    rows = torch.cat([batch.source.x for _ in range(8) for batch in data.train_dataloader()])[:, 0, 0] * 255
    slopes, starts = (rows[:, 1] - rows[:, 0]).round(), rows.amin(1).round()
    assert set(slopes.tolist()) == {4.0, -4.0}
    assert set(starts.tolist()) <= {4.0 * i for i in range(9)}
    assert len(set(starts.tolist())) > 2
    plain = open_folder(tmp_path, ["photo"], image_size=56, augment="none")
    assert torch.equal(next(iter(plain.train_dataloader())).source.x[0], evaluated[0])


def test_augmentation_is_the_same_with_workers_and_new_on_every_pass(root):
    batches = {}
    for num_workers in (0, 2):
        loader = open_folder(root, ["photo"], ["sketch"], num_workers=num_workers).train_dataloader()
        batches[num_workers] = [torch.cat([b.source.x, b.target.x]) for _ in range(2) for b in loader]
        loader.close()
    assert all(map(torch.equal, batches[0], batches[2]))


def test_default_size_is_that_of_the_papers(root):
    data = ImageFolderDomains(str(root), ["photo"], batch_size=2)
    data.setup()
    assert next(iter(data.train_dataloader())).source.x.shape == (2, 3, 224, 224)


def test_an_empty_image_is_found_at_setup(root):
    path = root / "sketch" / "dog" / "03.jpeg"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"the image {path} is empty \(0 bytes\)"):
        open_folder(root, ["photo"], ["sketch"])
    open_folder(root, ["photo"])


def save_noise(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["03.jpeg", "02.png", "40.bmp"])
@pytest.mark.parametrize("content", ["text", "half"])
def test_a_file_that_is_no_whole_image_is_found_at_setup(root, name, content):
    path = root / "photo" / "cat" / name
    whole = save_noise(path)
    open_folder(root, ["photo"])
    path.write_bytes(b"no image" if content == "text" else whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"cannot read the image {path}: .*; replace or delete the file"):
        open_folder(root, ["photo"])


def test_a_whole_image_with_something_behind_it_is_read(root):
    for name, behind in (("03.jpeg", b"\0" * 40), ("07.jpeg", b"a note of the camera"), ("02.png", b"\n")):
        with (root / "photo" / "cat" / name).open("ab") as file:
            file.write(behind)
    open_folder(root, ["photo"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damage_inside_an_image_is_named_also_from_a_worker(root, num_workers):
    path = root / "photo" / "cat" / "02.png"
    whole = save_noise(path)
    path.write_bytes(whole[:60] + bytes(len(whole) - 120) + whole[-60:])
    data = open_folder(root, ["photo"], num_workers=num_workers)
    (split,) = (split for split, rows in data.splits["photo"].items() if 2 in rows)
    loaders = {"train": [data.train_dataloader()] * 8, "val": data.val_dataloader(), "test": data.test_dataloader()}
    with pytest.raises(DataError) as caught:  # an epoch may drop the row, eight do not
        list(itertools.chain(*loaders[split]))
    assert str(caught.value).startswith(f"cannot read the image {path}: ")
    data.teardown("fit")


def test_files_of_a_group_stay_in_one_split(tmp_path):
    for name in ("ill", "well"):
        (tmp_path / "north" / name).mkdir(parents=True)
        for i in range(24):  # a patient has images in both classes; a few files say nothing of a patient
            file = f"person{i // 4}_scan{i}.png" if i < 20 else f"scan{i}.png"
            Image.new("L", (20, 20), i).save(tmp_path / "north" / name / file)
    data = open_folder(tmp_path, ["north"], batch_size=2, group_pattern=r"(person\d+)_")
    names = data.row_names("north")
    owners = {
        split: {names[row].split("/")[2].split("_")[0] for row in rows} for split, rows in data.splits["north"].items()
    }
    people = {split: {owner for owner in found if "person" in owner} for split, found in owners.items()}
    assert not people["train"] & people["test"]
    assert not people["train"] & people["val"]
    groups = data._listed("north").groups
    assert len(set(groups)) == 5 + 8  # equal names in two folders are two files
    assert sum(len(data.splits["north"][split]) for split in ("train", "val", "test")) == 48


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"person(\d+", "is no regular expression: missing"),
        (r"person\d+", r"must have one group in parentheses, .* got 0 in"),
        (r"(person)(\d+)", r"must have one group in parentheses, .* got 2 in"),
        (r"(patient\d+)_", r"matches none of the 40 files of 'photo', such as '00\.png'"),
    ],
)
def test_a_group_pattern_that_cannot_be(root, pattern, message):
    with pytest.raises(DataError, match=message):
        open_folder(root, ["photo"], group_pattern=pattern)


def test_what_is_refused(root):
    with pytest.raises(DataError, match="unknown domain 'foto': did you mean 'photo'"):
        open_folder(root, ["foto"])
    with pytest.raises(DataError, match="root: no folder"):
        open_folder(root / "nowhere", ["photo"])
    with pytest.raises(DataError, match="image_size must be at least 8"):
        open_folder(root, ["photo"], image_size=2)
    (root / "bare" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="bare holds no images: they must lie in bare/<class>/"):
        open_folder(root, ["photo"], ["bare"])


def test_classes_that_differ(root):
    shutil.rmtree(root / "sketch" / "dog")
    with pytest.raises(DataError, match="photo 2, sketch 1 classes: 'sketch' lacks dog"):
        open_folder(root, ["photo"], ["sketch"])
    (root / "sketch" / "cat").rename(root / "sketch" / "van")
    with pytest.raises(DataError, match="'photo' and 'sketch' have no class in common: cat, dog against van"):
        open_folder(root, ["photo"], ["sketch"])
    assert open_folder(root, ["photo"]).spec().classes == ("cat", "dog")


def test_pacs(tlkit_data):
    data = open_folder(tlkit_data / "PACS", ["photo", "art_painting"], ["cartoon"], image_size=64, batch_size=8)
    sizes = {domain: len(data._domain(domain, "train")) for domain in data.eval_domains}
    total = {domain: len(np.unique(np.concatenate(list(rows.values())))) for domain, rows in data.splits.items()}
    assert total == {"photo": 1670, "art_painting": 2048, "cartoon": 2344}
    assert data.spec().classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    loader = data.train_dataloader()
    assert len(loader) == (sizes["photo"] + sizes["art_painting"]) // 8
    batch = next(iter(loader))
    assert batch.source.x.shape == (8, 3, 64, 64)
    assert 0 <= batch.source.x.min() < batch.source.x.max() <= 1
    assert set(batch.target.domain.tolist()) == {2}
