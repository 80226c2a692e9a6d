import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from tlkit.data.images.augment import augmented, check_augment
from tlkit.errors import DataError

# An image whose pixels say where they come from: red is the row, green the column, blue a constant.
ROWS, COLUMNS = np.meshgrid(np.arange(40), np.arange(60), indexing="ij")
IMAGE = np.stack([ROWS, COLUMNS, np.full_like(ROWS, 200)]).astype(np.uint8)


def draws(count, **fixed):
    """Random draws with some of them fixed, by number."""
    values = np.random.default_rng(0).random((count, 8))
    for name, value in fixed.items():
        values[:, int(name[1:])] = value
    return values


def test_none_is_the_centre_as_torchvision_cuts_it():
    for size in (16, 17, 40):
        x = augmented([IMAGE], size, "none", draws(1))
        assert torch.equal(x[0], v2.CenterCrop(size)(torch.from_numpy(IMAGE)) / 255)
        assert x.dtype == torch.float32


def test_flip_crop_is_some_place_flipped_half_of_the_time():
    x = (augmented([IMAGE] * 2000, 32, "flip_crop", draws(2000)) * 255).round()
    tops, lefts = x[:, 0].amin((1, 2)), x[:, 1].amin((1, 2))
    assert set(tops.tolist()) == set(range(9))  # 40 - 32 + 1 places, all of them
    assert set(lefts.tolist()) == set(range(29))
    slope = x[:, 1, 0, 1] - x[:, 1, 0, 0]
    assert set(slope.tolist()) == {1.0, -1.0}
    assert 0.45 < (slope < 0).float().mean() < 0.55
    assert (x[:, 0, 1, 0] - x[:, 0, 0, 0] == 1).all()  # never upside down
    assert torch.equal(x[:, 1].amax((1, 2)) - lefts, torch.full((2000,), 31.0))


def test_strong_cuts_half_or_more_of_the_area_and_resizes_it():
    plain = {"_5": 0.5, "_6": 0.5, "_7": 0.5}  # colours as they are
    x = augmented([IMAGE] * 500, 24, "strong", draws(500, **plain)) * 255
    assert x.shape == (500, 3, 24, 24)
    assert torch.allclose(x[:, 2], torch.tensor(200.0), atol=1e-3)
    # the centres of the outer pixels lie half a pixel inside the cut
    tall, wide = ((x[:, channel].amax((1, 2)) - x[:, channel].amin((1, 2))) * 24 / 23 for channel in (0, 1))
    area = tall * wide / (40 * 60)
    assert 0.42 < area.min() < 0.55
    assert 0.7 < area.max() < 1.05
    assert 0.6 < (wide / tall).min() < 0.85
    assert 1.2 < (wide / tall).max() < 1.55
    assert len(set((x[:, 1, 0, 1] > x[:, 1, 0, 0]).tolist())) == 2


@pytest.mark.parametrize("number", [5, 6, 7])
@pytest.mark.parametrize("draw", [0.0, 0.25, 1.0])
def test_colours_are_scaled_as_torchvision_does(number, draw):
    image = np.random.default_rng(0).integers(60, 180, (3, 24, 24), dtype=np.uint8)  # nothing is clamped
    fixed = {"_0": 0.9, "_1": 0.0, "_2": 0.0, "_3": 0.999999, "_4": 0.5, "_5": 0.5, "_6": 0.5, "_7": 0.5}
    x = augmented([image], 24, "strong", draws(1, **{**fixed, f"_{number}": draw}))[0]
    plain = augmented([image], 24, "strong", draws(1, **fixed))[0]
    change = [reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation][number - 5]
    assert torch.allclose(x, change(plain, 0.6 + 0.8 * draw), atol=2e-4)  # torchvision's grey has 0.2989 of red


def test_values_stay_in_range():
    images = [np.full((3, 30, 30), level, np.uint8) for level in (0, 255)] * 50
    x = augmented(images, 24, "strong", draws(100))
    assert x.min() >= 0
    assert x.max() <= 1


@pytest.mark.parametrize("augment", [True, False, None, "flip"])
def test_what_is_no_augmentation_is_refused(augment):
    with pytest.raises(DataError, match=r"augment must be 'none' .*'flip_crop' .*'strong'"):
        check_augment(augment)
