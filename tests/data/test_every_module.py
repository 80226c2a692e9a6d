"""What holds for every data module of the package."""

import numpy as np
import pytest
import torch
from PIL import Image

import tlkit.data
from tlkit.data import Digits, DomainDataModule, ImageFolderDomains


def digits(folder):
    return Digits(["mnist"], ["optdigits"], batch_size=8)


def image_folder(folder):
    random = np.random.default_rng(0)
    for domain in ("photo", "sketch"):
        for name in ("cat", "dog"):
            (folder / domain / name).mkdir(parents=True)
            for number in range(20):
                pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / domain / name / f"{number}.png")
    return ImageFolderDomains(str(folder), ["photo"], ["sketch"], image_size=16, batch_size=8)


SETTINGS = {"Digits": digits, "ImageFolderDomains": image_folder}


@pytest.fixture(params=sorted(SETTINGS))
def data(request, tmp_path):
    module = SETTINGS[request.param](tmp_path)
    module.setup("fit")
    return module


def test_the_table_is_complete():
    modules = {name for name in tlkit.data.__all__ if issubclass(getattr(tlkit.data, name), DomainDataModule)}
    assert modules - {"DomainDataModule"} == set(SETTINGS)


def test_training_batches(data):
    for batch, _ in zip(data.train_dataloader(), range(3), strict=False):
        assert batch.target.y is None
        assert batch.source.y.dtype == torch.int64
        assert batch.source.x.dtype == batch.target.x.dtype == torch.float32
        assert batch.source.x.shape == batch.target.x.shape
        assert (batch.source.domain == 0).all()
        assert (batch.target.domain == 1).all()
    data.teardown("fit")


def test_the_splits_of_a_source_are_disjoint_and_a_target_has_no_labelled_validation(data):
    source, target = data.splits[data.sources[0]], data.splits[data.targets[0]]
    assert not set(source["train"]) & set(source["val"])
    for splits in (source, target):
        assert not (set(splits["train"]) | set(splits["val"])) & set(splits["test"])
    assert np.array_equal(target["train"], target["val"])


def test_evaluation_reads_every_row_of_a_domain_once(data):
    for number, (domain, loader) in enumerate(zip(data.eval_domains, data.test_dataloader(), strict=True)):
        batches = list(loader)
        assert torch.cat([batch.index for batch in batches]).tolist() == list(range(len(data.splits[domain]["test"])))
        assert all((batch.domain == number).all() for batch in batches)
        labels = torch.cat([batch.y for batch in batches])
        assert 0 <= labels.min() <= labels.max() < data.spec().num_classes


def test_the_example_has_the_shape_of_a_batch(data):
    batch = next(iter(data.train_dataloader()))
    assert data.example().x.shape == (2, *batch.source.x.shape[1:])
