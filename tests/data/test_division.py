"""A group that several domains have is on one side in all of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from tests.data.recording_files import series_table
from tests.data.scan_files import office_frame
from tlkit.data import (
    DomainDataModule,
    FingerprintDomains,
    FingerprintTable,
    HoldOut,
    ImageFolderDomains,
    SeriesColumns,
    SeriesDomains,
    Windowing,
)
from tlkit.data.splits import divide
from tlkit.errors import DataError


class Wards(DomainDataModule):
    """Patients of which most are in several wards, with another number of rows in each."""

    domains = ("north", "south", "west")
    classes = ("well", "ill")
    shared_groups = True
    patients = {"north": range(12), "south": range(4, 16), "west": range(8, 20)}

    def groups(self, domain):
        random = np.random.default_rng(self.domains.index(domain))
        return np.repeat([f"p{number}" for number in self.patients[domain]], random.integers(2, 9, 12))

    def published(self, domain):
        return None

    def dataset(self, domain, split):
        groups = self.groups(domain)
        y = np.arange(len(groups)) % 2
        rows = self.split(domain, y, groups, test=self.published(domain))[split]
        return TensorDataset(torch.as_tensor(rows)[:, None].float(), torch.as_tensor(y[rows]))


def ready(kind=Wards, sources=("north",), targets=("south",), **arguments):
    data = kind(list(sources), list(targets), batch_size=2, **arguments)
    data.setup()
    return data


def of(data, domain, *splits):
    """Return the names of the groups in some splits of a domain."""
    groups = data.groups(domain)
    return {name for split in splits for name in groups[data.splits[domain][split]]}


@pytest.mark.parametrize("seed", range(8))
def test_who_is_tested_in_one_domain_is_trained_on_in_none(seed, caplog):
    hold_out = HoldOut(seed=seed, test_fraction=0.3)
    data = ready(sources=["north", "south"], targets=["west"], hold_out=hold_out)
    tested = set().union(*(of(data, domain, "test") for domain in data.domains))
    for domain in data.domains:
        assert not of(data, domain, "train", "val", "reference") & tested
    tuned = of(data, "north", "val") | of(data, "south", "val")
    assert not tuned & (of(data, "north", "train") | of(data, "south", "train"))
    # Groups are drawn by their names, so that little has to be left out.
    learned = sum(len(of(data, domain, "train", "val") | of(data, domain, "test")) for domain in data.domains)
    assert learned >= 3 * 12 - 9


@pytest.mark.parametrize("seed", range(4))
def test_the_test_rows_depend_neither_on_the_role_nor_on_the_other_domains(seed):
    hold_out = HoldOut(seed=seed, test_fraction=0.3)
    alone = ready(sources=["south"], targets=[], hold_out=hold_out).splits["south"]["test"]
    runs = [{"also_test": ["south"], "sources": ["west"], "targets": []}, {"sources": ["north", "west"]}]
    for roles in runs:
        assert np.array_equal(ready(hold_out=hold_out, **roles).splits["south"]["test"], alone)


def test_what_is_left_out_is_said(caplog):
    for seed in range(20):
        caplog.clear()
        data = ready(hold_out=HoldOut(seed=seed, test_fraction=0.3))
        rest = set(data.groups("north")) - of(data, "north", "train", "val", "test")
        if rest:
            rows = int(np.isin(data.groups("north"), sorted(rest)).sum())
            assert f"{rows} of " in caplog.text
            assert f"rows that domain 'north' could learn from are left out: their {len(rest)} groups (" in caplog.text
            assert "are tested on in 'south'" in caplog.text
            return
    pytest.fail("no seed made the two wards test on different patients")


def test_labels_of_a_target_are_not_of_who_is_validated_on():
    for seed in range(8):
        hold_out = HoldOut(seed=seed, val_fraction=0.4)
        data = ready(labels_per_class={"south": 2}, hold_out=hold_out)
        assert not set(data.groups("south")[data.labelled["south"]]) & of(data, "north", "val")
        assert of(data, "south", "train") & of(data, "north", "val")  # without labels they may be learned from


def test_a_published_split_by_groups_counts_and_one_that_divides_them_does_not():
    class Published(Wards):
        def published(self, domain):
            return np.flatnonzero(np.isin(self.groups(domain), ["p6", "p7", "p8"])) if domain == "south" else None

    data = ready(Published)
    assert not of(data, "north", "train", "val") & {"p6", "p7", "p8"}

    class Late(Wards):
        def published(self, domain):  # the last visits of each patient
            groups = self.groups(domain)
            return np.flatnonzero(np.append(groups[1:] != groups[:-1], True))

    data = ready(Late)
    assert of(data, "north", "train", "val") & of(data, "south", "test")


def test_a_domain_without_labels_is_not_tested_and_takes_nothing_from_the_others():
    class Unlabelled(Wards):
        def dataset(self, domain, split):
            groups = self.groups(domain)
            y = np.full(len(groups), -1) if domain == "south" else np.arange(len(groups)) % 2
            rows = self.split(domain, y, groups)[split]
            return TensorDataset(torch.as_tensor(rows)[:, None].float(), torch.as_tensor(y[rows]))

    for seed in range(8):
        hold_out = HoldOut(seed=seed, test_fraction=0.3)
        data, alone = ready(Unlabelled, hold_out=hold_out), ready(Unlabelled, targets=[], hold_out=hold_out)
        assert all(
            np.array_equal(data.splits["north"][split], alone.splits["north"][split]) for split in ("train", "val")
        )
        assert not of(data, "south", "train") & of(data, "north", "test")
        rows = np.concatenate([data.splits["south"][split] for split in ("reference", "test")])
        assert sorted(rows) == list(range(len(data.groups("south"))))  # all are predicted


def test_a_domain_that_others_test_on_all_of_is_refused():
    class Ward(Wards):
        patients = {"north": range(4, 8), "south": range(4, 16), "west": range(8, 20)}

        def groups(self, domain):
            return np.repeat([f"p{number}" for number in self.patients[domain]], 3)

        def published(self, domain):
            return np.arange(3, 12) if domain == "south" else np.arange(3) if domain == "north" else None

    with pytest.raises(
        DataError, match=r"9 of 9 rows .*'north' .* of 3 groups \('p5', 'p6', 'p7'\) that are tested on in"
    ):
        ready(Ward)


def test_groups_of_one_domain_alone_are_drawn_as_they_were():
    """Measured results hang on the splits."""

    class Recordings(Wards):
        shared_groups = False

    data = ready(Recordings)
    groups = data.groups("south")
    random = np.random.default_rng([0, 1091925364])  # crc32 of "south"
    held = divide(np.arange(len(groups)), round(0.2 * len(groups)), np.arange(len(groups)) % 2, groups, random)[1]
    assert np.array_equal(data.splits["south"]["test"], held)


def test_a_person_is_on_one_side_with_every_device(tmp_path):
    files = series_table(tmp_path)
    columns = SeriesColumns(**files["columns"])
    windows = Windowing(length=32, stride=16)
    data = SeriesDomains(files["root"], columns, ["hip"], ["wrist"], windows, split_by="person", batch_size=2)
    data.setup()

    def persons(domain, split):
        names = data.row_names(domain)
        return {names[row].split(":")[2] for row in data.splits[domain][split]}

    assert persons("hip", "test") == persons("wrist", "test")
    assert not persons("wrist", "test") & (persons("hip", "train") | persons("hip", "val"))


def test_a_visit_is_on_one_side_by_day_and_by_night(tmp_path):
    frame = office_frame()
    night = frame[frame.phone == "new"].sample(frac=0.6, random_state=0)  # other numbers of rows, so other quotas
    pd.concat([frame[frame.phone == "old"], night]).to_csv(tmp_path / "office.csv", index=False)
    table = FingerprintTable(str(tmp_path / "office.csv"), "AP*", "x_m", "y_m", domain="phone", group="series")
    for seed in range(4):
        data = FingerprintDomains(table, ["old"], ["new"], batch_size=4, hold_out=HoldOut(seed=seed))
        data.setup()
        series = {domain: np.asarray(data.scans(domain).groups) for domain in ("old", "new")}
        tested = {name for domain, names in series.items() for name in names[data.splits[domain]["test"]]}
        for domain, names in series.items():
            assert not tested & set(names[data.splits[domain]["reference"]])


def test_a_patient_is_on_one_side_in_every_folder(tmp_path):
    for domain, most in (("day", 12), ("night", 9)):
        for number in range(most * 4):
            folder = tmp_path / domain / ("ill", "well")[number // 4 % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16)).save(folder / f"p{number // 4}_{number % 4}.png")
    (tmp_path / "day" / "ill" / "p0_0.png").rename(tmp_path / "day" / "ill" / "nobody.png")
    arguments = {"image_size": 8, "batch_size": 2, "group_pattern": r"(p\d+)_"}
    first = ImageFolderDomains(str(tmp_path), ["day"], ["night"], **arguments)
    first.setup()
    sides = {}
    for domain in ("day", "night"):
        names = first.row_names(domain)
        for split in ("reference", "test"):
            rows = first.splits[domain][split]
            sides.setdefault(split, set()).update(names[row].split("/")[-1].split("_")[0] for row in rows)
    assert not sides["reference"] & sides["test"]
    # A file without a patient is drawn by its place below the root, which is the same on every machine.
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    again = ImageFolderDomains(str(moved), ["day"], ["night"], **arguments)
    again.setup()
    assert all(np.array_equal(first.splits["day"][split], again.splits["day"][split]) for split in ("train", "test"))


@pytest.mark.parametrize("seed", range(12))
def test_a_domain_that_is_only_tested_is_not_asked_what_it_could_learn_from(seed):
    class Later(Wards):
        patients = {"north": range(4, 16), "south": range(12), "west": range(4)}

        def groups(self, domain):
            return np.repeat([f"p{number}" for number in self.patients[domain]], 5)

    data = ready(Later, also_test=["west"], hold_out=HoldOut(seed=seed))
    assert len(data.splits["west"]["test"])
    assert not of(data, "west", "test") & of(data, "south", "train")


class Walk(Wards):
    """One domain, ``unlabelled``, is a single recording without labels."""

    unlabelled = "south"

    def dataset(self, domain, split):
        if domain != self.unlabelled:
            return super().dataset(domain, split)
        y, groups = np.full(7, -1), np.full(7, "p99")
        rows = self.split(domain, y, groups)[split]
        return TensorDataset(torch.as_tensor(rows)[:, None].float(), torch.as_tensor(y[rows]))


def test_one_group_without_labels_that_is_only_predicted_is_predicted_whole():
    class Later(Walk):
        unlabelled = "west"

    data = Later(["north"], ["south"], also_test=["west"], batch_size=2)
    data.setup("predict")
    west = data.predict_dataloader()[2]
    assert sorted(index for batch in west for index in batch.index.tolist()) == list(range(7))
    assert data.rows_to_predict("west").tolist() == list(range(7))


def test_one_group_without_labels_to_adapt_to_is_learned_from_and_predicted_whole():
    data = ready(Walk)
    assert data.splits["south"]["train"].tolist() == list(range(7))
    south = data.predict_dataloader()[1]
    assert sorted(index for batch in south for index in batch.index.tolist()) == list(range(7))


class TestAfterTraining:
    """A model is evaluated on other domains than those it was trained with; people may be in both."""

    @pytest.mark.parametrize("seed", range(6))
    def test_who_was_learned_from_is_not_tested_in_a_domain_that_comes_later(self, seed, caplog):
        hold_out = HoldOut(seed=seed, test_fraction=0.3)
        trained = ready(hold_out=hold_out)
        learned = of(trained, "north", "train", "val") | of(trained, "south", "train")
        data = Wards(["north"], ["south"], also_test=["west"], hold_out=hold_out)
        data.trained = trained.spec()
        data.setup("test")
        for domain in ("north", "south"):
            for split, rows in trained.splits[domain].items():
                assert np.array_equal(data.splits[domain][split], rows)
        assert not of(data, "west", "test") & learned
        alone = of(ready(sources=["west"], targets=[], hold_out=hold_out), "west", "test")
        assert of(data, "west", "test") == alone - learned
        said = "rows that domain 'west' was to be scored on are left out"
        assert (said in caplog.text) == bool(set(data.groups("west")) & learned)

    @pytest.mark.parametrize("seed", range(6))
    def test_a_domain_that_is_not_named_again_still_counts(self, seed):
        hold_out = HoldOut(seed=seed, test_fraction=0.3)
        trained = ready(hold_out=hold_out)
        data = Wards(["west"], also_test=["south"], hold_out=hold_out)
        data.trained = trained.spec()
        data.setup("test")
        assert not of(data, "west", "test") & (of(trained, "north", "train", "val") | of(trained, "south", "train"))
        assert np.array_equal(data.splits["south"]["test"], trained.splits["south"]["test"])

    def test_nobody_left_to_test_on_is_refused(self):
        class Ward(Wards):
            patients = {"north": range(12), "south": range(12), "west": range(8, 20)}

            def published(self, domain):
                known = np.isin(self.groups(domain), ["p0", "p1"])
                return np.flatnonzero(known if domain == "north" else ~known) if domain != "west" else None

        trained = Ward(["north"], batch_size=2)
        trained.setup()
        data = Ward(["north"], also_test=["south"], batch_size=2)
        data.trained = trained.spec()
        with pytest.raises(DataError, match="domain 'south' has no rows in its test split"):
            data.setup("test")
