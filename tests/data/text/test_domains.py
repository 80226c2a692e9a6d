import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.text_files import sentences, write_table, write_tokenizer
from tlkit.data import HoldOut, TextDomains
from tlkit.errors import DataError

ROLES = {"sources": ["electronics"], "targets": ["dvd"], "batch_size": 4}


def make(path, **changes):
    data = TextDomains(str(path), **{**ROLES, "words": 100, **changes})
    data.setup()
    return data


def write(path, rows, columns=("text", "label", "domain")):
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def rows_of(domain, count=40):
    return [(*row, domain) for row in sentences(domain, count)]


def fails(path, **changes):
    with pytest.raises(DataError) as caught:
        make(path, **changes)
    return str(caught.value)


def served(data, domain, split="test"):
    """The texts that a split really serves."""
    return [data.texts(domain).texts[row] for row in data.splits[domain][split]]


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path)


def test_domains_classes_and_places_are_found(table):
    data = make(table)
    assert data.domains == ["dvd", "electronics"]
    assert data.classes == ["negative", "positive"]
    assert data.row_names("electronics")[:2] == ["line 42", "line 43"]
    x, y = data.dataset("dvd", "test")[3]
    text = served(data, "dvd")[3]
    assert data.classes[y] == ("positive" if "good" in text else "negative")
    words = [word for word in dict.fromkeys(text.split()) if word in data.vocabulary]
    assert sorted(np.array(data.vocabulary)[x.numpy() > 0]) == sorted(words)


def test_columns_have_other_names_and_labels_are_numbers(tmp_path):
    rows = [(text, 10 if label == "positive" else 9, domain) for text, label, domain in rows_of("a") + rows_of("b")]
    path = write(tmp_path / "t.csv", rows, ("review", "stars", "shop"))
    data = make(path, text="review", label="stars", domain="shop", sources=["a"], targets=["b"])
    assert data.classes == ["9", "10"]  # in numerical order
    assert "did you mean 'review'" in fails(path, text="reviews", label="stars", domain="shop")


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "tsv"])
def test_the_other_formats_give_the_same(table, tmp_path, ending):
    frame, other = pd.read_csv(table), tmp_path / f"mine.{ending}"
    if ending == "jsonl":
        frame.to_json(other, orient="records", lines=True)
    elif ending == "parquet":
        frame.to_parquet(other)
    else:
        frame.to_csv(other, index=False, sep="\t")
    one, two = make(table), make(other)
    assert served(one, "dvd") == served(two, "dvd")
    assert torch.equal(one.dataset("dvd", "test")[0][0], two.dataset("dvd", "test")[0][0])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_folder_with_a_file_for_each_domain(tmp_path, ending):
    for domain in ("dvd", "electronics"):
        frame = pd.DataFrame(sentences(domain, 40), columns=["text", "label"])
        path = tmp_path / f"{domain}.{ending}"
        frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    data = make(tmp_path, domain=None)
    assert data.domains == ["dvd", "electronics"]
    first = "line 2" if ending == "csv" else "row 1"
    assert data.row_names("dvd")[0] == f"dvd.{ending}, {first}"


@pytest.mark.parametrize("splits", [True, False])
def test_a_saved_data_set_of_hugging_face(tmp_path, splits):
    datasets = pytest.importorskip("datasets")
    rows = rows_of("dvd") + rows_of("electronics")
    columns = {"text": [r[0] for r in rows], "label": [r[1] for r in rows], "domain": [r[2] for r in rows]}
    saved = datasets.Dataset.from_dict(columns).class_encode_column("label")
    if splits:
        test = [row for row in range(80) if row % 4 == 1]
        train = [row for row in range(80) if row % 4 != 1]
        saved = datasets.DatasetDict({"train": saved.select(train), "test": saved.select(test)})
    saved.save_to_disk(tmp_path / "saved")
    data = make(tmp_path / "saved")
    assert data.classes == ["negative", "positive"]  # the names, not the numbers that are stored
    if splits:  # the published test split of each domain
        assert served(data, "dvd") == [rows[row][0] for row in test if row < 40]
        assert data.row_names("dvd")[-1] == "test, row 9"
    assert "unknown column 'texts': did you mean 'text'" in fails(tmp_path / "saved", text="texts")


def test_a_copy_of_a_data_set_of_the_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "copy" / "data").mkdir(parents=True)
    (tmp_path / "copy" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Reviews\n")
    (tmp_path / "copy" / ".gitattributes").touch()
    test = [(f"{text} held out", *rest) for text, *rest in rows_of("dvd", 8)]
    for split, rows in (("train", rows_of("dvd") + rows_of("electronics")), ("test", test)):
        frame = pd.DataFrame(rows, columns=["text", "label", "domain"])
        frame.to_parquet(tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet")
    data = make(tmp_path / "copy")
    assert data.domains == ["dvd", "electronics"]
    assert served(data, "dvd") == [text for text, *_ in test]
    assert data.row_names("dvd")[-1] == "test, row 7"
    (tmp_path / "copy" / "data" / "train-00000-of-00001.parquet").write_text("none")
    assert "cannot be read as a data set in the layout of the hub" in fails(tmp_path / "copy")


def test_a_file_named_test_is_the_test_split(tmp_path):
    write(tmp_path / "train.csv", rows_of("dvd", 30) + rows_of("electronics", 30))
    held = [(f"{text} held out", *rest) for text, *rest in rows_of("dvd", 10)]
    # Its first row is a training row too: it is kept as a test row.
    write(tmp_path / "Test-00000.csv", [*held, rows_of("dvd", 30)[0]])
    data = make(tmp_path)
    assert served(data, "dvd") == [*(row[0] for row in held), rows_of("dvd", 30)[0][0]]
    assert len(data.splits["dvd"]["train"]) == 29
    assert len(data.splits["electronics"]["test"]) == 6  # nothing published: a fifth


def test_equal_texts_are_removed_and_counted(tmp_path, caplog):
    rows = rows_of("electronics") + rows_of("dvd")
    path = write(tmp_path / "t.csv", [*rows, rows[3], rows[3], (f"  {rows[5][0]} ", *rows[5][1:])])
    with caplog.at_level("INFO"):
        data = make(path)
    assert len(data.texts("electronics")) == len(data.texts("dvd")) == 40
    assert caplog.text.count("electronics: 3 of 43 texts repeat another one and are left out") == 1


def test_equal_texts_with_different_labels_are_left_out_in_words(tmp_path):
    rows = rows_of("electronics") + rows_of("dvd")
    path = write(tmp_path / "t.csv", [*rows, (rows[0][0], "negative", "electronics")])
    with pytest.warns(UserWarning, match=r"electronics: 1 texts stand with different labels .* \(line 2, line 82\)"):
        data = make(path)
    assert rows[0][0] not in data.texts("electronics").texts


def test_texts_that_differ_in_case_and_blanks_stay_together(tmp_path):
    rows = []
    for domain in ("electronics", "dvd"):
        for text, label, _ in rows_of(domain, 60):
            rows += [(text, label, domain), (text.upper().replace(" ", "  "), label, domain)]
    path = write(tmp_path / "t.csv", rows)
    for seed in range(3):
        data = make(path, hold_out=HoldOut(val_fraction=0.3, seed=seed))
        found = {
            split: {" ".join(t.lower().split()) for t in served(data, "electronics", split)}
            for split in ("train", "val", "test")
        }
        assert sum(len(data.splits["electronics"][split]) for split in found) == 120
        assert not found["train"] & found["val"]
        assert not (found["train"] | found["val"]) & found["test"]


def test_one_long_text_does_not_take_its_room_for_every_other(tmp_path):
    rows = rows_of("electronics", 300) + rows_of("dvd", 300)
    rows[0] = ("very long " * 50_000 + "good", "positive", "electronics")
    path = write(tmp_path / "t.csv", rows)
    tracemalloc.start()
    try:
        make(path)
        assert tracemalloc.get_traced_memory()[1] < 60e6  # 600 texts of 500,000 characters would be 1.2 GB
    finally:
        tracemalloc.stop()


def test_a_source_does_not_train_on_what_another_source_tests_on(tmp_path):
    rows = rows_of("electronics") + rows_of("books") + rows_of("dvd")
    shared = [(*row[:2], "electronics") for row in rows_of("books")[:30]]
    data = make(write(tmp_path / "t.csv", rows + shared), sources=["electronics", "books"])
    learned = {text for split in ("train", "val") for text in served(data, "electronics", split)}
    tested = set(served(data, "books"))
    assert tested
    assert not learned & tested
    assert learned & {row[0] for row in rows_of("books")}  # the others are the earlier source's


def test_a_domain_that_comes_later_leaves_words_and_splits_as_they_were(tmp_path, caplog):
    rows = rows_of("electronics") + rows_of("dvd")
    path = write(tmp_path / "t.csv", rows)
    before = make(path)
    learned = [row for row in rows if row[0] in served(before, "electronics", "train")][:3]
    later = [(f"{text} and words of its own", label, "later") for text, label, _ in rows_of("later", 40)]
    write(path, [*rows, *later, *((*row[:2], "later") for row in learned)])
    after = TextDomains(str(path), **{**ROLES, "words": 100}, also_test=["later"])
    after.trained = before.spec()
    with caplog.at_level("INFO"):
        after.setup("test")
    assert after.vocabulary == before.vocabulary
    for domain in ("electronics", "dvd"):
        for split, taken in before.splits[domain].items():
            assert np.array_equal(after.splits[domain][split], taken)
        one, other = (data.dataset(domain, "test")[0][0] for data in (before, after))
        assert torch.equal(one, other)
    assert not set(served(after, "later")) & set(served(before, "electronics", "train"))
    assert "later: " in caplog.text or len(after.splits["later"]["test"]) == 8
    everything = write(tmp_path / "all.csv", [*rows, *((*row[:2], "later") for row in learned)])
    after = TextDomains(str(everything), **{**ROLES, "words": 100}, also_test=["later"])
    after.trained = before.spec()
    with pytest.raises(DataError, match="the model has learned from all"):
        after.setup("test")


def test_a_source_does_not_train_on_a_text_of_the_target(tmp_path, caplog):
    rows = rows_of("electronics") + rows_of("dvd")
    shared = [(rows[40 + n][0].upper(), rows[40 + n][1], "electronics") for n in range(10)]
    path = write(tmp_path / "t.csv", rows + shared)
    with caplog.at_level("INFO"):
        data = make(path)
    assert "electronics: 10 texts are in dvd too, and are not trained on" in caplog.text
    seen = set(served(data, "electronics", "train")) | set(served(data, "electronics", "val"))
    assert not seen & {row[0] for row in shared}
    alone = make(path, targets=[])
    assert np.array_equal(alone.splits["electronics"]["test"], data.splits["electronics"]["test"])
    same = write(tmp_path / "same.csv", rows_of("dvd") + [(*row[:2], "electronics") for row in rows_of("dvd")])
    assert "'electronics' has no text to train on that is not tested on" in fails(same)


def test_labelled_texts_of_one_domain_are_not_tested_on_in_another(tmp_path):
    rows = rows_of("electronics") + rows_of("dvd") + rows_of("books")
    shared = [(*row[:2], other) for row, other in zip(rows[40:50], ["books"] * 10, strict=True)]
    shared += [(*row[:2], "books") for row in rows[:10]]
    path = write(tmp_path / "t.csv", rows + shared)
    texts = {row[0] for row in shared}
    data = make(path, targets=["dvd", "books"], hold_out=HoldOut(test_fraction=0.5), labels_per_class={"books": 5})
    labelled = {data.texts("books").texts[row] for row in data.labelled["books"]}
    assert not labelled & {text for text in texts if "dvd" in text}
    data = make(path, sources=["electronics", "books"], targets=["dvd"])
    used = {text for split in ("train", "val") for text in served(data, "books", split)}
    assert not used & texts  # neither a target's nor those of an earlier source


def test_transductive_targets_are_trained_and_tested_on_all_their_rows(table):
    data = make(table, protocol="transductive", also_test=[])
    for split in ("train", "val", "test", "reference"):
        assert data.splits["dvd"][split].tolist() == list(range(40))
    source = data.splits["electronics"]
    assert len(source["test"]) == 8
    assert not set(source["test"]) & (set(source["train"]) | set(source["val"]))
    batch = next(iter(data.train_dataloader()))
    assert batch.target.y is None
    assert "protocol: transductive tests on all" in fails(table, protocol="transductive", labels_per_class={"dvd": 2})
    also = make(table, targets=[], also_test=["dvd"], protocol="transductive")
    assert len(also.splits["dvd"]["test"]) == 40


def test_words_are_fitted_on_training_texts_alone(tmp_path):
    """Each text has a word of its own: the vocabulary names the texts that were looked at."""
    rows = [
        (f"{('good', 'bad')[n % 2]} {domain}{n}", ("p", "n")[n % 2], domain)
        for domain in ("electronics", "dvd", "books")
        for n in range(40)
    ]
    data = make(write(tmp_path / "t.csv", rows), words=1000, also_test=["books"])
    seen = {word for word in data.vocabulary if word not in ("good", "bad")}
    wanted = served(data, "electronics", "train") + served(data, "dvd", "train")
    assert seen == {text.split()[1] for text in wanted}
    assert make(tmp_path / "t.csv", words=1000, also_test=["books"]).vocabulary == data.vocabulary
    assert make(tmp_path / "t.csv", words=2, also_test=["books"]).vocabulary == ["bad", "good"]
    pairs = make(tmp_path / "t.csv", words=1000, bigrams=True, also_test=["books"])
    assert {word for word in pairs.vocabulary if " " in word} <= {row[0] for row in rows}
    assert len(pairs.vocabulary) > len(data.vocabulary)


def test_words_are_tf_idf(tmp_path):
    data = make(write_table(tmp_path))
    train = served(data, "electronics", "train") + served(data, "dvd", "train")
    words = data.vocabulary
    count = np.array([[text.split().count(word) for word in words] for text in train])
    idf = np.log((1 + len(train)) / (1 + (count > 0).sum(0))) + 1
    text = served(data, "dvd")[0]
    row = np.array([text.split().count(word) for word in words]) * idf
    x = data.dataset("dvd", "test")[0][0]
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), row / np.linalg.norm(row), rtol=1e-5)


def test_texts_of_about_one_length_make_a_step(table, tmp_path):
    pytest.importorskip("transformers")
    tokenizer = write_tokenizer(tmp_path / "bert")
    shares = []
    for grouped in (False, True):
        data = make(table, words=None, tokenizer=tokenizer, group_by_length=grouped)
        masks = [side.x["attention_mask"] for batch in data.train_dataloader() for side in (batch.source, batch.target)]
        shares.append(1 - sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))
    assert shares[1] < shares[0] / 2


def test_tokens_of_several_sources_share_a_batch(tmp_path):
    pytest.importorskip("transformers")
    path = write(tmp_path / "t.csv", rows_of("electronics") + rows_of("dvd") + rows_of("books"))
    tokenizer = write_tokenizer(tmp_path / "bert")
    data = make(path, words=None, tokenizer=tokenizer, max_length=16, sources=["electronics", "books"], batch_size=8)
    for batch, _ in zip(data.train_dataloader(), range(6), strict=False):
        x = batch.source.x
        assert set(batch.source.domain.tolist()) == {0, 1}
        assert x["input_ids"].shape == x["attention_mask"].shape == (8, int(x["attention_mask"].sum(1).max()))
        assert (x["input_ids"][x["attention_mask"] == 0] == 0).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x", "dvd"), ("", "x", "dvd")], "t.csv, line 3, column 'text': expected text, got nothing"),
        ([("a", "x", "dvd"), (" ", "x", "dvd")], "t.csv, line 3, column 'text': expected text, got only blanks"),
        ([("a", "x", "dvd"), ("b", None, "dvd")], "t.csv, line 3, column 'label': expected a label, got nothing"),
        ([("a", "x", "dvd"), ("a", "x", None)], "t.csv, line 3, column 'domain': expected a label"),
        ([(1, "x", "dvd"), (2, "x", "dvd")], "t.csv, line 2, column 'text': expected text, got the number 1"),
        ([], "t.csv is empty: it has no rows"),
    ],
)
def test_bad_cells_are_named(tmp_path, rows, message):
    assert message in fails(write(tmp_path / "t.csv", rows))


def test_a_label_missing_from_a_domain(tmp_path):
    rows = rows_of("electronics") + [row for row in rows_of("dvd") if row[1] == "positive"]
    message = fails(write(tmp_path / "t.csv", rows))
    assert "t.csv, column 'label': domain 'dvd' has no text labelled 'negative', which 'electronics' has" in message


def test_arguments_that_contradict_each_other(table, tmp_path):
    assert "two of them name the same column, got 'text', 'text' and 'domain'" in fails(table, label="text")
    assert "give one of tokenizer" in fails(table, words=None)
    assert "give one of tokenizer" in fails(table, tokenizer="bert-base-uncased")
    assert "words must be at least 1, got 0" in fails(table, words=0)
    assert "max_length must be at least 3" in fails(table, max_length=2)
    assert "bigrams goes with words" in fails(table, words=None, tokenizer="x", bigrams=True)
    assert "group_by_length goes with tokenizer" in fails(table, group_by_length=True)
    assert "'inductive' or 'transductive', got 'deductive'" in fails(table, protocol="deductive")
    assert "unknown domain 'dvds': did you mean 'dvd'" in fails(table, targets=["dvds"])


def test_data_that_is_not_there(table, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    assert make("mine.csv").domains == ["dvd", "electronics"]  # found in the data folder
    assert "there is no my.csv or" in fails("my.csv")
    assert "is no file or folder here or in" in fails("nobody/nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no table" in fails(tmp_path / "empty")
    (tmp_path / "empty" / "dataset_info.json").write_text(json.dumps({}))
    assert "cannot be read as a data set" in fails(tmp_path / "empty")
