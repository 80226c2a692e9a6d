import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tlkit.data import ImageFolderDomains
from tlkit.data.images.files import ImageDomains, check_image, decode
from tlkit.errors import DataError


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(0)
    for domain in ("a", "b"):
        for name in ("cat", "dog"):
            (tmp_path / domain / name).mkdir(parents=True)
            for i in range(15):
                pixels = random.integers(0, 255, (40 + i, 90 - i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / domain / name / f"{i:02d}.png")
    return tmp_path


def open_folder(root, *args, **kwargs):
    data = ImageFolderDomains(str(root), *args, **{"image_size": 28, "batch_size": 4, **kwargs})
    data.setup()
    return data


def passes(data, number=2):
    loader = data.train_dataloader()
    return [torch.cat([batch.source.x for batch in loader]) for _ in range(number)]


def test_pixels_are_those_of_torchvisions_resize_and_crop(root):
    transform = v2.Compose([v2.Resize(32), v2.CenterCrop(28), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    data = open_folder(root, ["a"])
    files = sorted((root / "a").rglob("*.png"))
    for batch in data.test_dataloader()[0]:
        for x, row in zip(batch.x, data.splits["a"]["test"][batch.index], strict=True):
            assert torch.allclose(x, transform(Image.open(files[row]).convert("RGB")), atol=1e-6)


@pytest.mark.parametrize("augment", ["none", "flip_crop", "strong"])
def test_the_cache_changes_nothing_but_the_time(root, augment):
    kept, read = (open_folder(root, ["a"], ["b"], augment=augment, cache=cache) for cache in (True, False))
    for first, second in zip(passes(kept), passes(read), strict=True):
        assert torch.equal(first, second)
    assert set(kept._stores["a"].kept) <= set(kept.splits["a"]["train"].tolist())
    assert len(kept._stores["a"].kept) > 16
    assert read._stores["a"].kept is None


def test_images_are_read_once(root):
    data = open_folder(root, ["a"])
    once = passes(data, 1)[0]
    list(data.val_dataloader()[0])
    for path in (root / "a").rglob("*.png"):
        path.unlink()
    again = passes(data, 1)[0]
    assert once.shape == again.shape
    list(data.val_dataloader()[0])


def test_a_large_domain_is_not_kept(root, monkeypatch):
    monkeypatch.setattr("tlkit.data.images.files._KEPT", 30 * 3 * 32**2 - 1)
    data = open_folder(root, ["a"])
    passes(data, 1)
    assert data._stores["a"].kept is None


def test_augmentation_of_a_row_does_not_depend_on_its_batch(root):
    data = open_folder(root, ["a"])
    rows = data.dataset("a", "train").dataset
    key = (5, 0, 0)
    whole = rows.seeded_batch(torch.arange(30), key)[0]
    assert torch.equal(rows.seeded_batch(torch.tensor([17, 4]), key)[0], whole[[17, 4]])
    assert not torch.equal(rows.seeded_batch(torch.tensor([17, 4]), (6, 0, 0))[0], whole[[17, 4]])


def test_a_pass_over_kept_images_is_several_times_as_fast(root):
    for path in (root / "a").rglob("*.png"):
        Image.open(path).resize((300, 300)).save(path)
    data = open_folder(root, ["a"], image_size=96)
    loader, seconds = data.train_dataloader(), []
    for _ in range(4):
        start = time.perf_counter()
        list(loader)
        seconds.append(time.perf_counter() - start)
    assert min(seconds[1:]) < seconds[0] / 3


def test_row_names_are_the_files(root):
    data = open_folder(root, ["a"])
    assert data.row_names("a")[0] == "a/cat/00.png"
    assert len(data.row_names("a")) == 30


def test_what_is_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"augment must be .* got False"):
        open_folder(root, ["a"], augment=False)
    with pytest.raises(DataError, match=r"cannot read the image .*gone.png: No such file"):
        check_image(tmp_path / "gone.png")
    with pytest.raises(TypeError, match=r"must define listing\(domain\)"):
        ImageDomains(["a"]).listing("a")


def test_sixteen_bits_are_divided_not_cut_off_and_cameras_are_turned(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    seen = np.asarray(decode(tmp_path / "deep.png"))[..., 0]
    assert np.array_equal(seen, ramp >> 8)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match="levels of 32 bits"):
        decode(tmp_path / "float.tiff")
    (tmp_path / "deep.pgm").write_bytes(b"P5 32 32 65535\n" + ramp.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(decode(tmp_path / "deep.pgm"))[..., 0], ramp >> 8)
    Image.fromarray(ramp // 16).save(tmp_path / "twelve.png")
    with pytest.warns(UserWarning, match="images of 16 bits with no level above 8191"):
        assert np.asarray(decode(tmp_path / "twelve.png")).max() == 15
    wide = Image.new("RGB", (16, 8))
    exif = wide.getexif()
    exif[274] = 6  # the camera was held upright
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg").size == (8, 16)
