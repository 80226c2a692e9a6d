"""What holds for every data module. A new data module only has to be listed in settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tlkit.data
from tests.data.settings import SETTINGS, Setting
from tlkit.data import DomainDataModule
from tlkit.errors import DataError

every_data_module = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def tensors(x: Any) -> list[torch.Tensor]:
    """Return an input's tensors: itself, or those of a mapping."""
    return list(x.values()) if isinstance(x, dict) else [x]


def ready(setting: Setting, folder: Path, **overrides: Any) -> DomainDataModule:
    data = setting.make(setting.files(folder), **overrides)
    data.setup("fit")
    return data


def test_every_public_data_module_is_in_the_table() -> None:
    public = [getattr(tlkit.data, name) for name in tlkit.data.__all__]
    classes = {each for each in public if isinstance(each, type)}
    modules = {each for each in classes if issubclass(each, DomainDataModule)} - {DomainDataModule}
    assert modules == {setting.module for setting in SETTINGS}


@every_data_module
def test_training_batches_have_labels_on_the_source_side_alone(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    for batch, _ in zip(data.train_dataloader(), range(3), strict=False):
        if data.quantities:  # measured values, a column each
            assert batch.source.y.dtype == torch.float32
            assert batch.source.y.shape == (8, len(data.quantities))
        else:
            assert batch.source.y.dtype == torch.int64
        assert (batch.source.domain == 0).all()
        kind = torch.int64 if isinstance(batch.source.x, dict) else torch.float32
        assert all(source.dtype == kind for source in tensors(batch.source.x))
        if not setting.target:
            assert batch.target is None
            continue
        assert batch.target.y is None
        assert (batch.target.domain == 1).all()
        for source, target in zip(tensors(batch.source.x), tensors(batch.target.x), strict=True):
            assert target.dtype == kind
            assert source.shape == target.shape or isinstance(batch.source.x, dict)  # cut to the longest text
    data.teardown("fit")


@every_data_module
def test_splits_are_disjoint_and_a_target_has_no_labelled_validation(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    assert not set(data.splits[setting.source]["train"]) & set(data.splits[setting.source]["val"])
    for splits in (data.splits[domain] for domain in setting.domains):
        assert not (set(splits["train"]) | set(splits["val"])) & set(splits["test"])
    if setting.target:
        assert np.array_equal(data.splits[setting.target]["train"], data.splits[setting.target]["val"])


@every_data_module
def test_the_test_rows_are_the_same_in_every_run_and_role(setting: Setting, tmp_path: Path) -> None:
    files = setting.files(tmp_path)
    swapped = {"sources": setting.domains[1:], "targets": [setting.source]}
    first, again = setting.make(files), setting.make(files, **swapped)
    for domain in setting.domains:
        one, two = (data.dataset(domain, "test") for data in (first, again))
        assert np.array_equal(first.splits[domain]["test"], again.splits[domain]["test"])
        assert all(map(torch.equal, tensors(one[0][0]), tensors(two[0][0])))


@every_data_module
def test_evaluation_reads_every_row_of_a_domain_once(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    for number, (domain, loader) in enumerate(zip(data.eval_domains, data.test_dataloader(), strict=True)):
        batches = list(loader)
        index = torch.cat([batch.index for batch in batches])
        assert index.sort().values.tolist() == list(range(len(data.splits[domain]["test"])))
        assert all((batch.domain == number).all() for batch in batches)
        labels = torch.cat([batch.y for batch in batches])
        spec = data.spec()
        if spec.quantities:
            assert labels.isfinite().all()
            assert len(spec.centre) == len(spec.scale) == len(spec.quantities) == labels.shape[1]
            assert spec.classes == spec.class_counts == ()
        else:
            assert 0 <= labels.min() <= labels.max() < spec.num_classes


@every_data_module
def test_the_example_has_the_shape_of_a_batch(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    batch = next(iter(data.train_dataloader()))
    for example, source in zip(tensors(data.example().x), tensors(batch.source.x), strict=True):
        assert len(example) == 2
        assert example.shape[1:] == source.shape[1:] or isinstance(batch.source.x, dict)
    assert data.example().y is None


@every_data_module
def test_what_cannot_be_is_refused_at_setup(setting: Setting, tmp_path: Path) -> None:
    files = setting.files(tmp_path)
    with pytest.raises(DataError, match=f"did you mean '{setting.domains[-1]}'"):
        setting.make(files, targets=[f"{setting.domains[-1]}x"]).setup("fit")
    with pytest.raises(DataError, match="is larger than the training split"):
        setting.make(files, batch_size=10**6).setup("fit")
