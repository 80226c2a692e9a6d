"""What holds for every data module. A new data module only has to be listed in settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tlkit.data
from tests.data.settings import SETTINGS, Setting
from tlkit.data import DomainDataModule, HoldOut, TensorRows
from tlkit.errors import DataError

every_data_module = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def ready(setting: Setting, folder: Path, **overrides: Any) -> DomainDataModule:
    data = setting.make(setting.files(folder), **overrides)
    data.setup("fit")
    return data


def test_every_public_data_module_is_in_the_table() -> None:
    public = {getattr(tlkit.data, name) for name in tlkit.data.__all__} - {DomainDataModule, HoldOut, TensorRows}
    assert public == {setting.module for setting in SETTINGS}


@every_data_module
def test_training_batches_have_labels_on_the_source_side_alone(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    for batch, _ in zip(data.train_dataloader(), range(3), strict=False):
        assert batch.target.y is None
        assert batch.source.y.dtype == torch.int64
        assert batch.source.x.dtype == batch.target.x.dtype == torch.float32
        assert batch.source.x.shape == batch.target.x.shape
        assert (batch.source.domain == 0).all()
        assert (batch.target.domain == 1).all()
    data.teardown("fit")


@every_data_module
def test_splits_are_disjoint_and_a_target_has_no_labelled_validation(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    source, target = data.splits[setting.source], data.splits[setting.target]
    assert not set(source["train"]) & set(source["val"])
    for splits in (source, target):
        assert not (set(splits["train"]) | set(splits["val"])) & set(splits["test"])
    assert np.array_equal(target["train"], target["val"])


@every_data_module
def test_the_test_rows_are_the_same_in_every_run_and_role(setting: Setting, tmp_path: Path) -> None:
    files = setting.files(tmp_path)
    first, again = setting.make(files), setting.make(files, sources=[setting.target], targets=[setting.source])
    for domain in (setting.source, setting.target):
        one, two = (data.dataset(domain, "test") for data in (first, again))
        assert np.array_equal(first.splits[domain]["test"], again.splits[domain]["test"])
        assert torch.equal(one[0][0], two[0][0])


@every_data_module
def test_evaluation_reads_every_row_of_a_domain_once(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    for number, (domain, loader) in enumerate(zip(data.eval_domains, data.test_dataloader(), strict=True)):
        batches = list(loader)
        assert torch.cat([batch.index for batch in batches]).tolist() == list(range(len(data.splits[domain]["test"])))
        assert all((batch.domain == number).all() for batch in batches)
        labels = torch.cat([batch.y for batch in batches])
        assert 0 <= labels.min() <= labels.max() < data.spec().num_classes


@every_data_module
def test_the_example_has_the_shape_of_a_batch(setting: Setting, tmp_path: Path) -> None:
    data = ready(setting, tmp_path)
    batch = next(iter(data.train_dataloader()))
    assert data.example().x.shape == (2, *batch.source.x.shape[1:])
    assert data.example().y is None


@every_data_module
def test_what_cannot_be_is_refused_at_setup(setting: Setting, tmp_path: Path) -> None:
    files = setting.files(tmp_path)
    with pytest.raises(DataError, match=f"did you mean '{setting.target}'"):
        setting.make(files, targets=[f"{setting.target}x"]).setup("fit")
    with pytest.raises(DataError, match="is larger than the training split"):
        setting.make(files, batch_size=10**6).setup("fit")
