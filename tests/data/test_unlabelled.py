"""Domains without labels: what each data module makes of them, what is refused, and that no label is ever used."""

import json
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.data.image_sets import image_table
from tests.data.recording_files import series_table, waves
from tests.data.scan_files import office, office_frame
from tests.data.settings import image_folders
from tests.data.text_files import sentences, write_tokenizer
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.backbones import MLP as Words
from tlkit.backbones import CNN1d, FingerprintNet
from tlkit.data import (
    DomainDataModule,
    FingerprintDomains,
    FingerprintTable,
    ImageFolderDomains,
    ImageTableDomains,
    SeriesColumns,
    SeriesDomains,
    TextDomains,
    Windowing,
)
from tlkit.data.images.table import ImageColumns
from tlkit.data.labels import missing_labels
from tlkit.errors import DataError
from tlkit.losses import CORAL, MCC
from tlkit.tasks import Classification, Regression


class Flat(nn.Module):
    """A small backbone for images of any size."""

    num_features = 8

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.Tanh())

    def forward(self, x):
        return self.layers(x)


def hide(path, domain, column, labels=("label",)):
    """Empty the label cells of one domain of a CSV file."""
    frame = pd.read_csv(path).astype(dict.fromkeys(labels, object))
    frame.loc[frame[column].astype(str) == domain, list(labels)] = None
    frame.to_csv(path, index=False)


def texts(root, hidden):
    root.mkdir()
    for name, first in (("train", 0), ("test", 30)):  # a file named test is the test split
        rows = [(*row, d) for d in ("dvd", "electronics") for row in sentences(d, 40)[first : first + 30]]
        pd.DataFrame(rows, columns=["text", "label", "domain"]).to_csv(root / f"{name}.csv", index=False)
        if hidden:
            hide(root / f"{name}.csv", "dvd", "domain")
    return TextDomains, {"path": str(root), "sources": ["electronics"], "targets": ["dvd"], "words": 30}


def pictures(root, hidden):
    root.mkdir()
    path = image_table(root)["table"]
    frame = pd.read_csv(path)
    frame["part"] = np.where(np.arange(len(frame)) % 4, "train", "test")
    frame.to_csv(path, index=False)
    if hidden:
        hide(path, "south", "domain")
    roles = {"sources": ["north"], "targets": ["south"], "image_size": 16, "columns": ImageColumns(split="part")}
    return ImageTableDomains, {"table": path, **roles}


def folders(root, hidden):
    root.mkdir()
    files = image_folders(root)
    if hidden:
        for path in list((root / "sketch").rglob("*.png")):
            path.rename(root / "sketch" / f"{path.parent.name}_{path.name}")
        for name in ("cat", "dog"):
            (root / "sketch" / name).rmdir()
    return ImageFolderDomains, {**files, "sources": ["photo"], "targets": ["sketch"], "image_size": 16}


def recordings(root, hidden):
    root.mkdir()
    files = series_table(root)
    if hidden:
        hide(root / "all.csv", "wrist", "place", ["activity"])
    windows = Windowing(rate=50, length=32, stride=32)
    roles = {"sources": ["hip"], "targets": ["wrist"], "windows": windows, "split_by": "time"}
    return SeriesDomains, {**files, "columns": SeriesColumns(**files["columns"]), **roles}


def positions(root, hidden):
    root.mkdir()
    files = office(root)
    if hidden:
        hide(root / "office.csv", "new", "phone", ["x_m", "y_m"])
    return FingerprintDomains, {**files, "sources": ["old"], "targets": ["new"]}


def floors(root, hidden):
    root.mkdir()
    files = office(root)
    if hidden:
        hide(root / "office.csv", "new", "phone", ["floor", "house"])
    return FingerprintDomains, {**files, "sources": ["old"], "targets": ["new"], "label": "building_floor"}


class Published(ShiftedBlobs):
    """A user's own data module, with a published test split; labels of "moved" are hidden or not."""

    def __init__(self, *args, hidden=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.hidden = hidden

    def dataset(self, domain, split):
        x, y = self.rows(domain)
        if self.hidden and domain == "moved":
            y = torch.full_like(y, -1)
        rows = self.split(domain, y, test=np.arange(0, len(y), 5))[split]
        return TensorDataset(x[rows], y[rows])


def own(root, hidden):
    return Published, {"sources": ["still"], "targets": ["moved"], "hidden": hidden}


KINDS = [texts, pictures, folders, recordings, positions, floors, own]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
# Those whose test rows do not depend on labels, so that all is trained on the same rows.
BACKBONES = {
    texts: lambda: Words(hidden=[8]),
    pictures: Flat,
    recordings: CNN1d,
    positions: lambda: FingerprintNet(width=8),
    own: MLP,
}


def make(kind, root, hidden=True, **changes):
    root = Path(root)
    root.mkdir(exist_ok=True)
    module, arguments = kind(root / f"hidden={hidden}", hidden)
    return module(**{"batch_size": 4, **arguments, **changes})


@every_kind
def test_a_target_without_labels_is_read_split_and_predicted(kind, tmp_path, caplog):
    data = make(kind, tmp_path)
    data.setup("fit")
    (source,), (target,) = data.sources, data.targets
    assert data.has_labels(source)
    assert not data.has_labels(target)
    assert caplog.text.count(f"domain {target!r} has no labels: it is not tested") == 1
    data.setup("test")
    assert caplog.text.count("has no labels") == 1
    labelled = make(kind, tmp_path, hidden=False)
    labelled.setup("fit")
    assert data.spec() == labelled.spec()  # classes, counts and statistics come from the source
    parts = data.splits[target]
    assert not set(parts["train"]) & set(parts["test"])
    assert np.array_equal(parts["train"], parts["val"])
    assert abs(len(parts["test"]) - len(labelled.splits[target]["test"])) <= len(parts["test"]) / 2
    batch = next(iter(data.train_dataloader()))
    assert batch.source.y is not None
    assert batch.target.y is None
    for loaders in (data.val_dataloader(), data.test_dataloader()):
        assert [next(iter(loader)).y is None for loader in loaders] == [False, True]
    everything = np.union1d(parts["train"], parts["test"])
    assert np.array_equal(data.rows_to_predict(target), everything)
    _, loader = data.predict_dataloader()
    read = [(batch.index, batch.x) for batch in loader]
    assert torch.cat([index for index, _ in read]).tolist() == list(range(len(everything)))
    row = int(np.searchsorted(everything, parts["test"][-1]))
    first = data.test_dataloader()[1].dataset.parts[0].read(torch.tensor([len(parts["test"]) - 1]))[0]
    again = loader.dataset.parts[0].read(torch.tensor([row]))[0]
    assert torch.equal(first, again)


@pytest.mark.parametrize("kind", BACKBONES, ids=lambda kind: kind.__name__)
def test_hidden_labels_and_sealed_labels_give_the_same_weights_bit_for_bit(kind, tmp_path):
    found = []
    for hidden in (False, True):
        torch.manual_seed(0)
        data = make(kind, tmp_path, hidden)
        measured = kind is positions
        losses = [CORAL()] if measured else [CORAL(), MCC()]
        model = TransferModule(BACKBONES[kind](), Regression() if measured else Classification(), losses)
        trainer = L.Trainer(
            max_steps=12, val_check_interval=3, check_val_every_n_epoch=None, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=2,
        )  # fmt: skip
        trainer.fit(model, data)
        scores = dict(trainer.callback_metrics)
        (tested,) = [trainer.test(model, data, verbose=False)[0]]
        found.append((model.state_dict(), scores, tested, data))
    (sealed, scores, tested, data), (hidden, without, untested, _) = found
    assert sealed.keys() == hidden.keys()
    assert all(torch.equal(sealed[name], hidden[name]) for name in sealed)
    target = data.targets[0]
    assert {name for name in scores if name.startswith("oracle/")}
    assert without == {name: value for name, value in scores.items() if not name.startswith("oracle/")}
    assert untested == {name: value for name, value in tested.items() if not name.startswith(f"test/{target}/")}
    assert len(untested) < len(tested)


@every_kind
def test_a_domain_without_labels_is_no_source_and_has_no_budget(kind, tmp_path):
    data = make(kind, tmp_path)
    (source,), (target,) = data.sources, data.targets
    with pytest.raises(DataError, match=f"^sources: domain '{target}' has no labels, and a source is trained on with"):
        again(data, sources=[target], targets=[source]).setup("fit")
    for budget in ({"label_fraction": {target: 0.5}}, {"labels_per_class": {target: 1}}):
        with pytest.raises(DataError, match=f"names domain '{target}', which has no labels: leave it out there"):
            again(data, **budget).setup("fit")


def again(data, **changes):
    """Make a data module anew from the arguments of another one."""
    names = ("path", "table", "root", "columns", "words", "image_size", "windows", "split_by", "label", "hidden")
    known = {name: getattr(data, name) for name in names if name in vars(data)}
    if not isinstance(data, TextDomains):
        known.pop("path", None)  # where the table was found
    arguments = {"sources": data.sources, "targets": data.targets, "batch_size": 4, **known, **changes}
    return type(data)(**{name: value for name, value in arguments.items() if value is not None})


@every_kind
def test_a_domain_without_labels_may_be_only_predicted(kind, tmp_path, caplog):
    data = make(kind, tmp_path)
    (target,) = data.targets
    data = again(data, targets=[], also_test=[target])
    data.setup("test")
    assert f"domain {target!r} has no labels: it is not tested" in caplog.text
    data.setup("predict")
    assert sum(len(batch) for batch in data.predict_dataloader()[1]) == len(data.rows_to_predict(target))


def test_classes_must_be_known_from_somewhere(tmp_path):
    for kind in (texts, floors, recordings, pictures, folders):
        data = make(kind, tmp_path)
        with pytest.raises(DataError, match="no domain of this run has labels, so that its classes are not known"):
            again(data, sources=[]).setup("fit")
        shutil.rmtree(tmp_path / "hidden=True")
    data = make(own, tmp_path)
    again(data, sources=[]).setup("fit")  # a user's own says its classes


# Partly labelled


def partly(path, column, domain, labels=("label",)):
    """Empty the label of the second row of a domain, and return its line."""
    frame = pd.read_csv(path).astype(dict.fromkeys(labels, object))
    row = np.flatnonzero(frame[column].astype(str) == domain)[1]
    frame.loc[row, list(labels)] = None
    frame.to_csv(path, index=False)
    return row + 2


every_table = pytest.mark.parametrize(
    ("kind", "file", "column", "labels"),
    [
        (texts, "train.csv", "domain", ["label"]),
        (pictures, "table.csv", "domain", ["label"]),
        (recordings, "all.csv", "place", ["activity"]),
        (positions, "office.csv", "phone", ["x_m", "y_m"]),
        (floors, "office.csv", "phone", ["house", "floor"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)


@every_table
def test_a_partly_labelled_domain_is_refused_with_file_line_and_both_ways_out(kind, file, column, labels, tmp_path):
    data = make(kind, tmp_path, hidden=False)
    (source,), (target,) = data.sources, data.targets
    line = partly(tmp_path / "hidden=False" / file, column, target, labels)
    with pytest.raises(DataError) as caught:
        data.setup("fit")
    said = str(caught.value)
    assert f"{file}, line {line}, column" in said
    assert all(repr(name) in said for name in labels)
    assert "expected a label, got nothing (1 of the " in said
    assert f"rows of domain {target!r} has none); label all of them, or none: a target may have no labels" in said
    with pytest.raises(DataError, match=r"has none\); label them, or remove them"):
        again(data, sources=[target], targets=[source]).setup("fit")


@every_table
def test_a_partly_labelled_domain_that_the_run_does_not_name_stops_nothing(kind, file, column, labels, tmp_path):
    data = make(kind, tmp_path, hidden=False)
    (target,) = data.targets
    partly(tmp_path / "hidden=False" / file, column, target, labels)
    one, other = again(data, targets=[]), again(make(kind, tmp_path / "whole", hidden=False), targets=[])
    one.setup("fit")
    other.setup("fit")
    assert one.classes == other.classes
    (source,) = data.sources
    for split, rows in other.splits[source].items():
        assert rows.tolist() == one.splits[source][split].tolist()


def test_blanks_in_the_cells_of_a_target_without_positions_do_not_make_words_of_the_numbers(tmp_path):
    data = make(positions, tmp_path)
    file = tmp_path / "hidden=True" / "office.csv"
    frame = pd.read_csv(file, dtype=object)
    frame.loc[frame["phone"] == "new", ["x_m", "y_m"]] = " "
    frame.to_csv(file, index=False)
    data.setup("fit")
    assert data.has_labels("old")
    assert not data.has_labels("new")
    assert data.spec().scale


def test_images_beside_class_folders_are_refused(tmp_path):
    data = make(folders, tmp_path, hidden=False)
    folder = tmp_path / "hidden=False" / "sketch"
    shutil.copy(folder / "cat" / "0.png", folder / "loose.png")
    with pytest.raises(DataError, match=r"sketch/loose.png has no label, .* \(1 of the 41 images of domain 'sketch'"):
        data.setup("fit")


def test_a_users_own_partly_labelled_domain_is_refused_where_its_rows_are_used():
    class Partly(Published):
        def split(self, domain, y, **kwargs):
            y = y.clone()
            y[3] = -1
            return super().split(domain, y, **kwargs)

    with pytest.raises(
        DataError, match=r"row 3 of domain 'still': expected a label, got nothing .*; label them, or rem"
    ):
        Partly(["still"], ["moved"]).setup("fit")

    class Unused(Partly):
        def split(self, domain, y, **kwargs):
            return super().split(domain, y, among=np.setdiff1d(np.arange(len(y)), 3), **kwargs)

    Unused(["still"], ["moved"]).setup("fit")  # a row that is neither trained nor tested on needs none


# Files that lack the column


def test_files_of_texts_without_the_column(tmp_path):
    for name in ("shop", "forum"):
        rows = [(*row, name) for row in sentences(name, 40)]
        frame = pd.DataFrame(rows, columns=["text", "label", "domain"])
        frame.drop(columns="domain").to_csv(tmp_path / f"{name}.csv", index=False)
    frame = pd.read_csv(tmp_path / "forum.csv")
    lines = [json.dumps({"text": text, "label": None}) for text in frame["text"]]
    (tmp_path / "forum.csv").unlink()
    (tmp_path / "forum.jsonl").write_text("\n".join(lines))
    (tmp_path / "mail.jsonl").write_text("\n".join(json.dumps({"text": f"mail {text}"}) for text in frame["text"]))
    roles = {"sources": ["shop"], "targets": ["forum"], "also_test": ["mail"], "words": 30, "domain": None}
    data = TextDomains(str(tmp_path), **roles, batch_size=4)
    data.setup("fit")
    assert [data.has_labels(name) for name in ("shop", "forum", "mail")] == [True, False, False]
    assert data.classes == ["negative", "positive"]
    with pytest.raises(DataError, match=r"mail.jsonl has no column 'label'. Its columns: text"):
        TextDomains(str(tmp_path), **{**roles, "sources": ["mail"], "also_test": ["shop"]}, batch_size=4).setup("fit")


def test_texts_that_were_adapted_to_make_the_same_words_when_they_are_only_predicted(tmp_path):
    data = make(texts, tmp_path)
    data.setup("fit")
    late = again(data, targets=[], also_test=data.targets)
    late.trained = data.spec()
    late.setup("predict")
    assert late.vocabulary == data.vocabulary
    assert late.splits["dvd"]["train"].tolist() == data.splits["dvd"]["train"].tolist() != []


def test_transductive_texts_without_labels(tmp_path):
    data = make(texts, tmp_path, protocol="transductive")
    data.setup("fit")
    assert not data.has_labels("dvd")
    assert np.array_equal(data.rows_to_predict("dvd"), np.arange(len(data.texts("dvd"))))
    assert sum(len(batch) for batch in data.predict_dataloader()[1]) == len(data.texts("dvd"))


def test_tokens_without_labels_are_predicted_longest_first(tmp_path):
    rows = [(*row, "shop") for row in sentences("shop", 40)]
    rows += [(f"{text}{' very' * (n % 7)}", "", "forum") for n, (text, _) in enumerate(sentences("forum", 40))]
    pd.DataFrame(rows, columns=["text", "label", "domain"]).to_csv(tmp_path / "texts.csv", index=False)
    roles = {"sources": ["shop"], "targets": ["forum"], "tokenizer": write_tokenizer(tmp_path / "tokenizer")}
    data = TextDomains(str(tmp_path / "texts.csv"), **roles, max_length=32, batch_size=16)
    data.setup("predict")
    batches = list(data.predict_dataloader()[1])
    alone = data.dataset("forum", "test")
    number = int(np.searchsorted(data.rows_to_predict("forum"), data.splits["forum"]["test"][3]))
    index = torch.cat([batch.index for batch in batches]).tolist()
    assert sorted(index) == list(range(40))
    lengths = torch.cat([batch.x["attention_mask"].sum(1) for batch in batches])
    assert torch.equal(lengths, lengths.sort(descending=True).values)
    batch = batches[index.index(number) // 16]
    row = {key: value[index.index(number) % 16] for key, value in batch.x.items()}
    assert row["input_ids"][row["attention_mask"] == 1].tolist() == alone[3][0]["input_ids"].tolist()


def test_a_data_set_of_hugging_face_without_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    kind = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    rows = [(text, int(label == "positive")) for text, label in sentences("shop", 40)]
    splits = {"shop": rows, "forum": [(f"{text} here", -1) for text, _ in rows]}
    made = {
        name: datasets.Dataset.from_dict(dict(zip(("text", "label"), zip(*found, strict=True), strict=True)), kind)
        for name, found in splits.items()
    }
    made["mail"] = datasets.Dataset.from_dict({"text": [f"{text} there" for text, _ in rows]})
    for name in ("forum", "mail"):
        datasets.DatasetDict({"shop": made["shop"], name: made[name]}).save_to_disk(tmp_path / name)
        data = TextDomains(str(tmp_path / name), ["shop"], [name], domain=None, words=30, batch_size=4)
        data.setup("fit")
        assert not data.has_labels(name)
        with pytest.raises(DataError, match=r"has no labels|unknown column 'label'"):
            TextDomains(str(tmp_path / name), [name], ["shop"], domain=None, words=30, batch_size=4).setup("fit")


@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_recordings_without_the_column(tmp_path, ending):
    random = np.random.default_rng(0)
    for place in ("hip", "wrist"):
        (tmp_path / place).mkdir()
        for take in range(5):
            columns = dict(zip(("ax", "ay", "az"), waves(random, 100, 3, 0.3).T, strict=True))
            if place == "hip":
                columns["label"] = np.array(["rest", "walk"]).repeat(50)
            if ending == "csv":
                pd.DataFrame(columns).to_csv(tmp_path / place / f"{take}.csv", index=False)
            else:
                np.savez(tmp_path / place / f"{take}.npz", **columns)
    arguments = {"columns": SeriesColumns(["ax", "ay", "az"]), "windows": Windowing(length=20, stride=20)}
    data = SeriesDomains(str(tmp_path), sources=["hip"], targets=["wrist"], **arguments, batch_size=4)
    data.setup("fit")
    assert not data.has_labels("wrist")
    parts = data.splits["wrist"]
    of = np.array([name.partition("@")[0] for name in data.row_names("wrist")])
    assert not set(of[parts["train"]]) & set(of[parts["test"]])  # a recording is never divided
    assert len(of) == 25
    what = "column" if ending == "csv" else "array"
    with pytest.raises(DataError, match=f"wrist/0.{ending} has no {what} 'label'"):
        SeriesDomains(str(tmp_path), sources=["wrist"], targets=["hip"], **arguments, batch_size=4).setup("fit")
    shutil.copy(tmp_path / "hip" / f"0.{ending}", tmp_path / "wrist" / f"9.{ending}")
    with pytest.raises(DataError, match=rf"wrist/0.{ending}, (line 2|row 1), column 'label': .* \(500 of the 600 rows"):
        SeriesDomains(str(tmp_path), sources=["hip"], targets=["wrist"], **arguments, batch_size=4).setup("fit")


def test_groups_of_scans_stay_together_without_labels(tmp_path):
    data = make(floors, tmp_path)
    data.setup("fit")
    series = office_frame().query("phone == 'new'")["series"].to_numpy()
    parts = data.splits["new"]
    assert not set(series[parts["train"]]) & set(series[parts["test"]])


def test_a_table_that_was_never_given_positions_of_the_target_is_read_by_floors(tmp_path):
    """Only the columns that the label is made of are asked for."""
    make(positions, tmp_path).setup("fit")
    table = FingerprintTable(
        str(tmp_path / "hidden=True" / "office.csv"), rssi="AP*", x="x_m", y="y_m", domain="phone", floor="floor"
    )
    data = FingerprintDomains(table, ["old"], ["new"], label="floor", batch_size=4)
    data.setup("fit")
    assert data.has_labels("new")


def test_a_data_module_may_say_itself_that_a_domain_has_no_labels():
    class Silent(DomainDataModule):
        domains = ["a", "b"]
        classes = ["x", "y"]

        def has_labels(self, domain):
            return domain == "a"

        def dataset(self, domain, split):  # divides nothing by split()
            return [(torch.full((2,), float(row)), row % 2 if domain == "a" else None) for row in range(12)]

    data = Silent(["a"], ["b"], batch_size=4)
    data.setup("fit")
    assert [next(iter(loader)).y is None for loader in data.predict_dataloader()] == [False, True]
    with pytest.raises(DataError, match="sources: domain 'b' has no labels"):
        Silent(["b"], ["a"], batch_size=4).setup("fit")


def test_what_counts_as_missing():
    assert missing_labels(np.array([-1, 0]), ["a"]).tolist() == [True, False]
    assert missing_labels(np.array([-1, 0]), []).tolist() == [False, False]  # a value like others
    assert missing_labels(np.array([[-1, -1], [-1, 0]]), ["a"]).tolist() == [True, False]
    assert missing_labels(np.array([[np.nan, np.nan], [np.nan, 0]]), []).tolist() == [True, False]
    assert missing_labels(np.array([], np.int64), ["a"]).tolist() == []
    assert missing_labels(["a", "b"], ["a", "b"]).tolist() == [False, False]


def test_no_forward_pass_is_spent_on_rows_that_cannot_be_tested():
    model = TransferModule(MLP(), Classification())
    data = Published(["still"], ["moved"], hidden=True)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    seen = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    found = trainer.test(model, data, verbose=False)
    assert sum(seen) == 31  # the test rows of "still"
    assert not any("moved" in name for values in found for name in values)
