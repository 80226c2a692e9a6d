import tarfile

import pytest
import torch

from tests.data.text_files import write_reviews
from tlkit.data import AmazonReviews, HoldOut
from tlkit.errors import DataError

ROLES = {"sources": ["electronics"], "targets": ["dvd"], "batch_size": 4, "words": 50}


@pytest.fixture
def folder(tmp_path):
    return write_reviews(tmp_path)


class Few(AmazonReviews):
    """As many reviews held out as there are in the small files."""

    transductive_test = 10


def make(root, **changes):
    data = Few(**{**ROLES, "root": root and str(root), **changes})
    data.setup()
    return data


def fails(root, **changes):
    with pytest.raises(DataError) as caught:
        make(root, **changes)
    return str(caught.value)


def test_reviews_are_read_from_what_is_no_xml(folder):
    data = make(folder.parent)
    texts = data.texts("kitchen")
    assert len(texts) == 40
    assert texts.labels == ["negative"] * 20 + ["positive"] * 20
    assert texts.texts[0].endswith("kitchen_&_housewares 1, café")  # latin-1, and & by itself
    assert data.row_names("kitchen")[20] == "positive.review, review 1"
    x, y = data.dataset("dvd", "test")[0]
    assert x.dtype == torch.float32
    assert y == 0


def test_the_root_may_be_the_inner_folder(folder):
    assert make(folder).texts("books").texts == make(folder.parent).texts("books").texts


def test_titles_come_first(folder):
    data = make(folder, title=True)
    assert data.texts("books").texts[0].startswith("title 0 & more\n")


def test_the_same_text_under_another_title_is_a_duplicate(folder):
    path = folder / "dvd" / "negative.review"
    first = path.read_bytes().partition(b"</review>\n")[0] + b"</review>\n"
    path.write_bytes(path.read_bytes() + first.replace(b"title 0", b"another title"))
    assert len(make(folder, title=True).texts("dvd")) == len(make(folder).texts("dvd")) == 40


def test_protocols(folder):
    data = make(folder)
    assert all(data.splits["dvd"][split].tolist() == list(range(40)) for split in ("train", "val", "test"))
    source = {split: len(rows) for split, rows in data.splits["electronics"].items()}
    assert source == {"train": 24, "val": 6, "test": 10, "reference": 30}
    data = make(folder, protocol="inductive")
    sizes = {domain: {split: len(rows) for split, rows in data.splits[domain].items()} for domain in data.splits}
    assert sizes["electronics"] == {"train": 26, "val": 6, "test": 8, "reference": 32}
    assert sizes["dvd"] == {"train": 32, "val": 32, "test": 8, "reference": 32}
    data = make(folder, hold_out=HoldOut(val_fraction=0.5, test_fraction=0.5))
    assert len(data.splits["electronics"]["test"]) == 10  # whatever test_fraction is
    assert 14 <= len(data.splits["electronics"]["val"]) <= 16


def test_it_is_fetched_from_a_mirror(folder, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with tarfile.open(mirror / "domain_sentiment_data.tar.gz", "w:gz") as archive:
        archive.add(folder, "sorted_data_acl")
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TLKIT_MIRROR", str(mirror))
    assert len(make(None).texts("dvd")) == 40
    assert (tmp_path / "data" / "sorted_data_acl" / "dvd" / "negative.review").is_file()


def test_broken_files_are_named(folder):
    path = folder / "dvd" / "negative.review"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path} should hold reviews between <review> and </review>: it begins" in fails(folder)
    path.write_bytes(whole.replace(b"<review_text>", b"<text>", 1))
    assert f"{path}, review 1: expected a text in <review_text>, got none" in fails(folder)
    path.unlink()
    assert "lacks dvd/negative.review" in fails(folder)


def test_the_real_reviews(tlkit_data):
    domains = ["books", "dvd", "electronics", "kitchen"]
    data = AmazonReviews(sources=["electronics"], targets=["dvd"], words=20, root=str(tlkit_data))
    data.setup("fit")
    assert [len(data.read(domain)) for domain in domains] == [2000] * 4
    repeated = [2000 - len(data.texts(domain)) for domain in domains]
    assert repeated == [44, 46, 34, 23]
    assert sum(repeated) == 147
    assert [data.texts(domain).labels.count("positive") for domain in domains] == [993, 995, 987, 996]
    sizes = {split: len(rows) for split, rows in data.splits["electronics"].items()}
    assert sizes == {"train": 1541, "val": 385, "test": 40, "reference": 1926}
    assert {len(rows) for rows in data.splits["dvd"].values()} == {1954}
    # One pair differs in blanks alone: both stay, and never in two splits.
    groups = [" ".join(key.lower().split()) for key in data.texts("electronics").keys]
    pair = [row for row, group in enumerate(groups) if groups.count(group) == 2]
    assert len(pair) == 2
    assert sum(set(pair) <= set(data.splits["electronics"][split]) for split in ("train", "val", "test")) == 1
    titled = AmazonReviews(sources=["electronics"], words=20, root=str(tlkit_data), title=True)
    assert len(titled.texts("electronics")) == 1966
