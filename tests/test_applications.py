"""Every application once, small: data with a real shift, trained through the Python API, and that it helps.

Text is in test_docs_text.py, on the page's own example. Margins are at most half of the least that seeds 0 to 3 gave.
"""

import copy

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tlkit import TransferModule
from tlkit.backbones import CNN1d, ConvNet, FingerprintNet
from tlkit.data import (
    FingerprintDomains,
    FingerprintTable,
    HoldOut,
    ImageFolderDomains,
    SeriesColumns,
    SeriesDomains,
    Signals,
    Windowing,
)
from tlkit.losses import MCC
from tlkit.tasks import Classification, Diagnosis, Hashing, PlaceRegression

SEED = 0


def scores(model, data, steps):
    """Train, and return the metrics of the test splits without their prefix."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
        log_every_n_steps=steps,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    return {name.removeprefix("test/"): value.item() for name, value in trainer.callback_metrics.items()}


def module(backbone, task, adaptation=None, batch_norm="joint"):
    return TransferModule(
        backbone,
        task,
        adaptation,
        batch_norm,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.002),
    )


@pytest.fixture(autouse=True)
def same_start():
    L.seed_everything(SEED)


def stripes(kind, random, size=28):
    """Stripes in one of four directions, at a random phase and pace, in [0, 1]."""
    down, right = np.mgrid[:size, :size]
    along = (down, right, down + right, down - right)[kind]
    return 0.5 + 0.5 * np.sin(along * random.uniform(0.7, 0.9) + random.uniform(0, 6))


@pytest.fixture
def photos_and_drawings(tmp_path):
    """Soft stripes, and thin dark lines on paper of a tint, with noise on both."""
    random = np.random.default_rng(SEED)
    for domain in ("photo", "drawing"):
        for kind, name in enumerate(("down", "right", "falling", "rising")):
            (tmp_path / domain / name).mkdir(parents=True)
            for number in range(60):
                light = stripes(kind, random)[..., None] + np.zeros(3)
                image = 0.1 + 0.8 * light if domain == "photo" else [0.9, 0.7, 0.8] - 0.2 * (light > 0.85)
                pixels = (255 * (image + random.normal(0, 0.08, image.shape)).clip(0, 1)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / domain / name / f"{number}.png")
    return ImageFolderDomains(
        str(tmp_path),
        ["photo"],
        ["drawing"],
        image_size=28,
        augment="none",
        batch_size=16,
        hold_out=HoldOut(test_fraction=0.4),
    )


def of_colour(**kwargs):
    return ConvNet(in_channels=3, image_size=28, channels=(8, 16), hidden=64, **kwargs)


def test_vision(photos_and_drawings):
    """A classifier of photographs meets drawings; minimum class confusion makes up its mind about them."""
    source_only, adapted = (
        scores(module(of_colour(), Classification(), losses), photos_and_drawings, 120) for losses in ([], [MCC()])
    )
    assert source_only["photo/accuracy"] > 0.9
    assert adapted["drawing/accuracy"] - source_only["drawing/accuracy"] > 0.15


def test_hashing(photos_and_drawings):
    """Drawings look for photographs of their kind."""
    source_only, adapted = (
        scores(module(of_colour(), Hashing(bits=16), losses), photos_and_drawings, 120) for losses in ([], [MCC()])
    )
    assert source_only["photo/map"] > 0.9
    assert adapted["drawing/map"] - source_only["drawing/map"] > 0.2


def test_sensors(tmp_path):
    """A sensor is turned by a quarter: its axes mean something else, the length of the acceleration does not."""
    random = np.random.default_rng(SEED)
    rows = []
    for place in ("hip", "wrist"):
        for person in range(6):
            for activity, pace, strength in (("walk", 2.0, 2.0), ("run", 3.0, 5.0), ("rest", 0.5, 0.1)):
                time = np.arange(600) / 50
                swing = strength * np.sin(2 * np.pi * time * pace * random.uniform(0.9, 1.1))
                x, y, z = 0.3 * swing, 0.5 * swing, 9.8 + swing
                if place == "wrist":
                    x, y, z = z, -x, y
                for sample in zip(time, x, y, z, strict=True):
                    noise = random.normal(0, 0.3, 3)
                    rows.append((sample[0], *(sample[1:] + noise), activity, f"{person} {activity}", place))
    names = ["t", "ax", "ay", "az", "activity", "take", "place"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "all.csv", index=False)
    axes = ["ax", "ay", "az"]
    columns = SeriesColumns(axes, label="activity", time="t", recording="take", domain="place", triads=[axes])
    accuracy = {}
    for channels in ("raw", "magnitude"):
        data = SeriesDomains(
            str(tmp_path / "all.csv"),
            columns,
            ["hip"],
            ["wrist"],
            windows=Windowing(rate=50, length=100, stride=50),
            signals=Signals(channels=channels),
        )
        backbone = CNN1d(in_channels=3 if channels == "raw" else 1)
        accuracy[channels] = scores(module(backbone, Classification()), data, 60)
    assert accuracy["raw"]["hip/accuracy"] > 0.9
    assert accuracy["magnitude"]["wrist/accuracy"] - accuracy["raw"]["wrist/accuracy"] > 0.3


def test_wifi(tmp_path):
    """A second phone hears all access points 12 dB weaker; batch-norm statistics of its own scans make up for it."""
    random = np.random.default_rng(SEED)
    routers = random.uniform(0, 30, (20, 2))
    places = np.stack(np.meshgrid(np.arange(0, 30, 5.0), np.arange(0, 30, 5.0)), axis=-1).reshape(-1, 2)
    frames = []
    for phone, weaker in (("old", 0.0), ("new", 12.0)):
        position = places.repeat(12, axis=0)
        distance = np.linalg.norm(position[:, None] - routers, axis=2)
        rssi = -40 - 20 * np.log10(1 + distance) - weaker + random.normal(0, 2, distance.shape)
        frame = pd.DataFrame(np.where(rssi < -80, 100, rssi.round()), columns=[f"AP{n}" for n in range(20)])
        frame["x"], frame["y"], frame["phone"] = *position.T, phone
        frames.append(frame)
    pd.concat(frames).to_csv(tmp_path / "office.csv", index=False)
    data = FingerprintDomains(
        FingerprintTable(str(tmp_path / "office.csv"), rssi="AP*", domain="phone"), ["old"], ["new"], batch_size=64
    )
    source_only, adapted = (
        scores(module(FingerprintNet(width=64, blocks=1), PlaceRegression(), None, norm), data, 200)
        for norm in ("joint", "adabn")
    )
    assert source_only["new/error_mean"] - adapted["new/error_mean"] > 2  # metres, of 9.5


def test_medical(tmp_path):
    """A bright spot in a noisy scan is the finding: few labels suffice to a network that knows another clinic."""
    random = np.random.default_rng(SEED)
    for clinic, contrast in (("large", 0.6), ("small", 0.5)):
        for label in ("NORMAL", "FINDING"):
            (tmp_path / clinic / label).mkdir(parents=True)
            for number in range(100):
                image = random.normal(0.4, 0.12, (28, 28))
                if label == "FINDING":
                    top, left = random.integers(3, 21, 2)
                    image[top : top + 4, left : left + 4] += contrast
                pixels = (255 * image.clip(0, 1)).astype(np.uint8)
                name = f"patient{number // 2:03d}_{number % 2}.png"
                Image.fromarray(pixels).save(tmp_path / clinic / label / name)

    def of(clinic, **budget):
        return ImageFolderDomains(
            str(tmp_path),
            [clinic],
            image_size=28,
            augment="none",
            group_pattern=r"(patient\d+)_",
            batch_size=10,
            **budget,
        )

    backbone = of_colour()
    first = scores(module(backbone, Diagnosis(["FINDING"])), of("large"), 150)
    scratch, transferred = (
        scores(module(start, Diagnosis(["FINDING"])), of("small", labels_per_class=5), 60)
        for start in (of_colour(), copy.deepcopy(backbone))
    )
    assert first["large/auroc"] > 0.9
    assert transferred["small/auroc"] > 0.75
    assert transferred["small/auroc"] - scratch["small/auroc"] > 0.1
