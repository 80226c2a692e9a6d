"""Training on shards: rows, order, resume, ranks, workers, and what is refused."""

import itertools
import shutil

import numpy as np
import pytest
import torch

from tests.data.shard_sets import array_samples, picture
from tests.data.text_files import write_table
from tests.shift import ShiftedBlobs
from tlkit.data import (
    ArrayShardDomains,
    ImageFolderDomains,
    ImageShardDomains,
    ShardSample,
    TextDomains,
    write_domain,
    write_shards,
)
from tlkit.data.loader import TrainLoader
from tlkit.data.order import by_shard
from tlkit.data.rows import SideRows
from tlkit.errors import DataError


def write_arrays(folder, samples, rows_a_shard=10):
    """Write arrays into shards of so many rows each."""
    for number, first in enumerate(range(0, len(samples), rows_a_shard)):
        write_domain(folder / "part", samples[first : first + rows_a_shard])
        (folder / "part" / "part-000000.tar").rename(folder / f"{number:03d}.tar")
        shutil.rmtree(folder / "part")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two domains of arrays in 12 and 5 shards; the first value of an array is the number of its row."""
    folder = tmp_path_factory.mktemp("shards")
    write_arrays(folder / "left", array_samples(0, 120))
    write_arrays(folder / "right", array_samples(1, 50))
    return folder


def open_arrays(root, sources=("left",), targets=("right",), setup="fit", **options):
    data = ArrayShardDomains(str(root), list(sources), list(targets), **{"batch_size": 4, "window": 3, **options})
    data.setup(setup)
    return data


def bits(batch):
    return [tensor for side in (batch.source, batch.target) for tensor in (side.x, side.domain, side.index)]


def same(one, other):
    return all(map(torch.equal, bits(one), bits(other)))


def take(loader, number):
    found = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), number))
    loader.close()
    return found


def test_rows_are_read_as_they_were_written(root):
    data = open_arrays(root)
    samples = {"left": array_samples(0, 120), "right": array_samples(1, 50)}
    for domain, loader in zip(data.eval_domains, data.test_dataloader(), strict=True):
        for batch in loader:
            rows = data.splits[domain]["test"][batch.index]
            assert batch.x.dtype == torch.float32
            assert np.array_equal(batch.x, np.stack([samples[domain][row].x for row in rows]))
            assert batch.y.tolist() == [row % 2 for row in rows]
    assert data.classes == ["0", "1"]
    assert data.row_names("left")[13] == "001.tar#3"


def test_a_pass_is_all_rows_once_and_local():
    shards = torch.arange(100) // 10
    order = by_shard([(shards, 2)], torch.Generator().manual_seed(3), 4)
    assert sorted(order.tolist()) == list(range(100))
    windows = [set(part.tolist()) for part in shards[order].split(20)]
    assert [len(window) for window in windows] == [2] * 5
    assert set.union(*windows) == set(range(10))
    again, other = (by_shard([(shards, 2)], torch.Generator().manual_seed(seed), 4) for seed in (3, 4))
    assert torch.equal(order, again)
    assert not torch.equal(order, other)


def test_every_row_comes_first_as_often():
    """The order is uniform within what it may be: no row is favoured at any place."""
    shards = torch.tensor([0, 0, 1, 1, 1, 2])
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([by_shard([(shards, 1)], generator, 1)[0] for _ in range(2000)]).bincount(minlength=6)
    expected = torch.tensor([1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9, 1 / 3]) * 2000
    assert ((first - expected).abs() < 5 * expected.sqrt()).all()


def test_the_rows_that_fill_no_step_are_of_every_shard_whatever_its_size():
    shards = torch.tensor([0] * 1000 + [1] * 1000 + [2] * 10)  # the last shard that is written is mostly a small one
    passes = [by_shard([(shards, 1)], torch.Generator().manual_seed(seed), 32)[62 * 32 :] for seed in range(400)]
    left = torch.cat(passes)
    assert len(left) == 400 * (2010 - 62 * 32)
    assert abs(float((shards[left] == 2).float().mean()) - 10 / 2010) < 0.003


def test_domains_are_mixed_in_proportion():
    domains = [(torch.arange(900) // 10, 2), (torch.arange(300) // 10, 2)]
    order = by_shard(domains, torch.Generator().manual_seed(0), 4)
    assert sorted(order.tolist()) == list(range(1200))
    shares = [(part < 900).double().mean().item() for part in order.split(120)]
    assert all(abs(share - 0.75) < 0.16 for share in shares)  # 4 deviations of 120 draws
    first = order[order < 900][:20] // 10
    assert len(set(first.tolist())) == 2  # each domain stays in its own window


def test_training_is_local_and_a_selection_of_rows_is_too(root):
    data = open_arrays(root, labels_per_class={"right": 8})
    sides = data._sides()
    assert [part.name for part in sides["source"]] == ["left", "right"]
    for rows in map(SideRows, (sides["source"], sides["target"])):
        order = rows.order(torch.Generator().manual_seed(0), 4)
        assert sorted(order.tolist()) == list(range(len(rows)))
    shards, window = sides["source"][1].shards
    assert (len(shards), window) == (16, 3)
    rows = np.sort(data.labelled["right"])
    assert shards.tolist() == (rows // 10).tolist()
    order = SideRows(sides["target"]).shuffled()
    assert sorted(order.tolist()) == list(range(40))
    assert len(sides["target"][0].shards[0][order[:20]].unique()) <= 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_was_killed_goes_on_with_the_same_batches(root, num_workers):
    whole = take(open_arrays(root).train_dataloader(), 60)  # two passes over the source, five over the target
    assert len({tuple(batch.source.index.tolist()) for batch in whole}) == 60
    for stop in (1, 17, 40):
        loader = open_arrays(root, num_workers=num_workers).train_dataloader()
        loader.load_state_dict({"position": stop, "seed": whole and loader.seed})
        assert all(map(same, take(loader, 12), whole[stop : stop + 12]))


def test_two_ranks_are_one_of_twice_the_batch(root):
    data = open_arrays(root)
    source, target = (SideRows(parts) for parts in data._sides().values())
    one = take(TrainLoader(source, target, 8, seed=5), 20)
    ranks = [take(TrainLoader(source, target, 4, seed=5, rank=rank, world=2), 20) for rank in (0, 1)]
    for whole, *parts in zip(one, *ranks, strict=True):
        joined = [torch.cat(each) for each in zip(*map(bits, parts), strict=True)]
        assert all(map(torch.equal, bits(whole), joined))


def test_workers_change_nothing(tmp_path):
    write_domain(tmp_path / "photo", [ShardSample(picture(i), i % 2, ending="png") for i in range(40)])
    batches = {}
    for num_workers in (0, 2):
        data = ImageShardDomains(str(tmp_path), ["photo"], image_size=16, batch_size=4, num_workers=num_workers)
        data.setup()
        batches[num_workers] = [batch.source.x for batch in take(data.train_dataloader(), 20)]
        batches[num_workers] += [batch.x for batch in data.test_dataloader()[0]]
    assert all(map(torch.equal, batches[0], batches[2]))


def test_a_reader_is_sent_to_another_process(root):
    import pickle

    rows = open_arrays(root).dataset("left", "test")
    before = rows[3][0]
    assert torch.equal(pickle.loads(pickle.dumps(rows))[3][0], before)


def assert_the_same_images(shards, folders, domain, rows):
    """Every row of the shards is a file of the folders, with its class and, pixel by pixel, its image."""
    ours, theirs = shards.dataset(domain, "test"), folders.dataset(domain, "test").dataset
    files = {path.read_bytes(): number for number, path in enumerate(folders.listing(domain).paths)}
    assert len(ours.reader.index) == len(files)
    ours.numbers = np.arange(len(files))
    found = set()
    for row in rows:
        number = files[ours.reader.read(row)[0]]
        found.add(number)
        mine, label = ours.seeded_batch(torch.tensor([row]), ())
        x, y = theirs.seeded_batch(torch.tensor([number]), ())
        assert torch.equal(mine, x)
        assert shards.classes[label] == folders.classes[y]
    assert len(found) == len(rows)


def test_images_are_those_of_the_folders(tmp_path):
    for seed, (domain, name, i) in enumerate(itertools.product(("photo", "sketch"), ("cat", "dog"), range(12))):
        path = tmp_path / "files" / domain / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, size=30 + i))
    folders = ImageFolderDomains(str(tmp_path / "files"), ["photo"], ["sketch"], image_size=16)
    write_shards(folders, tmp_path / "shards")
    shards = ImageShardDomains(str(tmp_path / "shards"), ["photo"], ["sketch"], image_size=16)
    assert shards.classes == folders.classes == ["cat", "dog"]
    for domain in folders.domains:
        assert_the_same_images(shards, folders, domain, range(24))


@pytest.mark.parametrize("augment", ["flip_crop", "strong"])
def test_an_augmentation_depends_on_the_pass_and_the_row_alone(tmp_path, augment):
    write_domain(tmp_path / "photo", [ShardSample(picture(i), i % 2, ending="png") for i in range(40)])
    rows = ImageShardDomains(str(tmp_path), ["photo"], image_size=16, augment=augment).dataset("photo", "train")
    first = rows.seeded_batch(torch.tensor([0]), (1, 2))[0]
    assert torch.equal(first, rows.seeded_batch(torch.tensor([3, 0]), (1, 2))[0][1:])
    assert not torch.equal(first, rows.seeded_batch(torch.tensor([0]), (1, 3))[0])


def test_groups_and_published_splits_are_kept(tmp_path):
    splits = ["train", "train", "val", "test"]
    samples = [ShardSample(np.zeros(3), i % 2, f"g{i // 10}", splits[i // 10 % 4]) for i in range(80)]
    write_domain(tmp_path / "a", samples)
    data = open_arrays(tmp_path, ["a"], [])
    for name in ("train", "val", "test"):
        assert data.splits["a"][name].tolist() == [i for i in range(80) if splits[i // 10 % 4] == name]
    write_domain(tmp_path / "b", [ShardSample(np.zeros(3), i % 2, i // 5) for i in range(80)])
    drawn = open_arrays(tmp_path, ["b"], []).splits["b"]
    groups = [{row // 5 for row in drawn[name].tolist()} for name in ("train", "val", "test")]
    assert not groups[0] & groups[2]
    assert not groups[0] & groups[1]
    samples[35] = ShardSample(np.zeros(3), 1, "g0", "test")
    write_domain(tmp_path / "c", samples)
    with pytest.raises(DataError, match=r"group 'g0' is in two splits, train \(c-000000.tar#0\) and test \(c.*#35\)"):
        open_arrays(tmp_path, ["c"], [])


def test_groups_that_are_numbers_of_each_domain_are_not_shared_by_the_domains(tmp_path):
    texts = TextDomains(write_table(tmp_path), ["electronics"], ["dvd"], words=20, batch_size=4)
    write_shards(texts, tmp_path / "shards")
    data = open_arrays(tmp_path / "shards", ["electronics"], ["dvd"])
    one, other = (set(data._readers[domain].index.groups) for domain in ("electronics", "dvd"))
    assert len(one) == len(other) == 40
    assert not one & other
    rows = data.splits["electronics"]  # none is left out for what the other domain tests on
    assert sum(len(rows[split]) for split in ("train", "val", "test")) == 40


def test_two_domains_of_one_folder_are_refused_before_one_is_written(tmp_path):
    class Halves(ShiftedBlobs):
        domains = ["day/left", "day_left"]
        sizes = {"day/left": 30, "day_left": 30}

    with pytest.raises(DataError, match=r"domains 'day/left' and 'day_left' would both be written to .*day_left"):
        write_shards(Halves(["day/left"], ["day_left"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_that_are_trained_and_tested_on_are_written_once(tmp_path):
    texts = TextDomains(
        write_table(tmp_path), ["electronics"], ["dvd"], words=20, batch_size=4, protocol="transductive"
    )
    write_shards(texts, tmp_path / "shards")
    data = open_arrays(tmp_path / "shards", ["electronics"], ["dvd"])
    assert [len(data.row_names(domain)) for domain in ("electronics", "dvd")] == [40, 40]
    assert not set(data.splits["dvd"]["train"]) & set(data.splits["dvd"]["test"])


def test_a_target_without_labels(tmp_path):
    write_domain(tmp_path / "a", array_samples(0, 40))
    write_domain(tmp_path / "b", [ShardSample(sample.x) for sample in array_samples(1, 40)])
    data = open_arrays(tmp_path, ["a"], ["b"])
    assert not data.has_labels("b")
    assert next(iter(data.train_dataloader())).target.y is None
    assert sum(len(batch.index) for batch in data.predict_dataloader()[1]) == 40
    with pytest.raises(DataError, match="domain 'b' has no labels, and a source is trained on"):
        open_arrays(tmp_path, ["b"], ["a"])


def test_classes_that_are_numbers_are_in_the_order_of_their_values(tmp_path):
    write_domain(tmp_path / "a", [ShardSample(np.zeros(3), i % 12) for i in range(120)])
    assert open_arrays(tmp_path, ["a"], []).classes == [str(i) for i in range(12)]


def test_sorted_shards_are_told(tmp_path, caplog):
    write_arrays(tmp_path / "a", [ShardSample(np.zeros(3), i // 20) for i in range(100)])
    open_arrays(tmp_path, ["a"], [], window=2)
    assert "a shard has samples of 1.0 of the 5 classes on average" in caplog.text


def test_real_images(tlkit_data, tmp_path):
    folders = ImageFolderDomains(str(tlkit_data / "PACS"), ["photo"], ["cartoon"], image_size=64)
    write_shards(folders, tmp_path, domains=["photo"], megabytes=2)
    shards = ImageShardDomains(str(tmp_path), ["photo"], image_size=64, batch_size=8, window=4)
    shards.setup()
    assert len(list((tmp_path / "photo").glob("*.tar"))) > 4
    assert_the_same_images(shards, folders, "photo", range(0, 1670, 60))
    batch = next(iter(shards.train_dataloader()))
    assert batch.source.x.shape == (8, 3, 64, 64)
    assert len(batch.source.y.unique()) > 1
