import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.data.small_sets import Lines
from tlkit.data import DomainDataModule, HoldOut
from tlkit.errors import ContractError, DataError

quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
pytestmark = [
    # https://github.com/Lightning-AI/pytorch-lightning: 2.6.6 still builds torch's LeafSpec
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    # Lightning's advice on worker processes and log steps: these data lie in memory, these runs are short
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Recorder(L.LightningModule):
    """Keeps the batches that Lightning hands it."""

    def __init__(self, uses_target=True):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.uses_target = uses_target
        self.batches, self.evaluated = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        side = batch.source or batch.target
        return self.layer(side.x[:, :1]).mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append((dataloader_idx, batch))

    test_step = validation_step

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append((dataloader_idx, batch))
        return batch.index

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """Take back what Lightning's seed_everything leaves in the environment."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


def orders(batches):
    return [[getattr(batch, side).index.tolist() for side in ("source", "target")] for batch in batches]


def ready(*args, **kwargs):
    data = Lines(*args, **kwargs)
    data.setup()
    return data


def test_a_source_is_split_into_three_disjoint_parts_with_the_shares_of_its_labels():
    splits = ready(["long"], ["short"], batch_size=4).splits["long"]
    splits = {split: rows for split, rows in splits.items() if split != "reference"}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 72, "val": 8, "test": 20}
    assert sorted(np.concatenate(list(splits.values()))) == list(range(100))
    assert all((rows % 2).mean() == 0.5 for rows in splits.values())


@pytest.mark.parametrize("roles", [{"targets": ["short"]}, {"also_test": ["short"]}])
def test_a_domain_without_labels_to_train_on_validates_on_its_training_rows(roles):
    splits = ready(["long"], **roles, batch_size=4).splits.get("short")
    assert np.array_equal(splits["train"], splits["val"])
    assert not set(splits["train"]) & set(splits["test"])
    assert len(splits["train"]) + len(splits["test"]) == 30


def test_the_test_rows_depend_on_neither_role_nor_other_domains_but_on_the_seed():
    as_source = ready(["short"], ["long"], batch_size=4).splits["short"]["test"]
    as_target = ready(["long", "other"], ["short"], batch_size=4).splits["short"]["test"]
    assert np.array_equal(as_source, as_target)
    assert not np.array_equal(
        as_source, ready(["short"], batch_size=4, hold_out=HoldOut(seed=1)).splits["short"]["test"]
    )


def test_published_test_rows_and_numbers_of_rows():
    y = np.arange(40) % 2
    for test in (np.arange(30, 40), np.arange(40) >= 30):
        splits = Lines(["long"]).split("long", y, test=test)
        assert splits["test"].tolist() == list(range(30, 40))
        assert len(splits["val"]) == 3
    assert len(Lines(["long"]).split("long", y, test=7)["test"]) == 7
    assert len(Lines(["long"]).split("long", torch.tensor(y))["test"]) == 8


def test_groups_are_in_one_split_only():
    groups = np.arange(100) // 5
    splits = Lines(["long"]).split("long", np.arange(100) % 2, groups=groups)
    parts = [set(groups[splits[name]]) for name in ("train", "val", "test")]
    assert sum(map(len, parts)) == 20 == len(set.union(*parts))


def test_a_domain_that_is_too_small_to_split():
    with pytest.raises(DataError, match="domain 'long' cannot be split: 1 rows are too few"):
        Lines(["long"]).split("long", [0])


def test_target_labels_are_absent_from_every_training_batch():
    for noisy in (False, True):
        data = ready(["long"], ["short", "other"], batch_size=5, noisy=noisy)
        batches = list(data.train_dataloader())
        assert all(batch.target.y is None for batch in batches)
        assert all(batch.source.y.shape == (5,) for batch in batches)
        assert {int(d) for batch in batches for d in batch.target.domain} == {1, 2}
        assert data.example().y is None


def test_roles_names_and_numbers():
    data = ready(["other", "long"], [], ["short"], batch_size=4)
    spec = data.spec()
    assert spec.domains == ("other", "long", "short")
    assert (spec.sources, spec.targets, spec.classes) == (("other", "long"), (), ("even", "odd"))
    assert data.eval_domains == ["other", "long", "short"]
    assert len(data.val_dataloader()) == 2
    assert len(data.test_dataloader()) == len(data.predict_dataloader()) == 3
    for number, loader in enumerate(data.test_dataloader()):
        for batch in loader:
            assert batch.domain.tolist() == [number] * len(batch)
            assert batch.y is not None
    batch = next(iter(data.train_dataloader()))
    assert batch.target is None
    # x holds 1000 x the domain's number in `domains`, and the row; domain and index must agree with it
    names = [spec.domains[int(d)] for d in batch.source.domain]
    rows = [data.splits[name]["train"][i] for name, i in zip(names, batch.source.index.tolist(), strict=True)]
    wanted = [1000.0 * Lines.domains.index(name) + row for name, row in zip(names, rows, strict=True)]
    assert batch.source.x.flatten().tolist() == wanted


def test_the_example_is_two_validation_rows_and_draws_nothing():
    data = ready(["long"], ["short"], batch_size=4, noisy=True)
    before = torch.get_rng_state()
    example = data.example()
    assert torch.equal(before, torch.get_rng_state())
    assert example.x[:, 0].tolist() == data.splits["long"]["val"][:2].tolist()
    assert example.domain.tolist() == [0, 0]


def test_source_free():
    data = ready([], ["short"], batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert batch.source is None
    assert len(batch.target) == 4
    assert data.example().x.shape == (2, 1)


def test_only_what_a_stage_needs_is_read():
    data = Lines(["long"], ["short"], batch_size=4)
    data.setup("test")
    assert set(data._read) == {("long", "test"), ("short", "test")}
    data.setup("validate")
    assert ("short", "val") in data._read
    data.setup("fit")
    assert len(data._read) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": ["lon"]}, "sources: unknown domain 'lon': did you mean 'long'"),
        ({"sources": ["long"], "targets": ["shrt"]}, "targets: unknown domain 'shrt': did you mean 'short'"),
        ({"sources": ["long"], "also_test": ["mother"]}, "also_test: unknown domain 'mother': did you mean 'other'"),
        ({"sources": ["long"], "targets": ["long"]}, "'long' is both in sources and in targets"),
        ({"sources": [], "targets": []}, "both empty"),
        ({"sources": ["long"], "batch_size": 1}, "batch_size must be at least 2, one row has no covariance, got 1"),
        ({"sources": ["long"], "num_workers": -1}, "num_workers must be 0"),
        (
            {"sources": ["long"], "targets": ["short"], "batch_size": 25},
            "batch_size 25 is larger than the training split of the target 'short', which has 24 rows: choose at most",
        ),
    ],
)
def test_what_is_refused_before_training(arguments, message):
    with pytest.raises(DataError, match=message):
        ready(**arguments)


@pytest.mark.parametrize("name", ["val_fraction", "test_fraction"])
@pytest.mark.parametrize("value", [0.0, 1])
def test_a_split_of_nothing_or_of_everything_is_refused(name, value):
    with pytest.raises(DataError, match=f"hold_out.{name} must lie between 0 and 1, both excluded, got {value}"):
        HoldOut(**{name: value})


def test_domains_with_other_classes_are_refused():
    class Zoo(Lines):
        def domain_classes(self, domain):
            return ["even", "odd", "prime"] if domain == "short" else self.classes

    with pytest.raises(DataError, match="got long 2, short 3 classes: 'long' lacks prime"):
        Zoo(["long"], ["short"]).setup()
    Zoo(["long"], ["other"]).setup()


def test_faults_in_the_data_are_found_at_setup_with_their_place():
    class Faulty(Lines):
        def dataset(self, domain, split):
            x, y = torch.zeros(9, 2), torch.zeros(9, dtype=torch.int64)
            if domain == "short" and split == "test":
                x[7, 1] = torch.inf
            if domain == "other":
                y[3] = 2
            return TensorDataset(x, y)

    with pytest.raises(DataError, match="domain 'short', test split, index 7: x holds NaN or infinity"):
        Faulty(["long"], ["short"], batch_size=4).setup("fit")
    with pytest.raises(DataError, match="domain 'other', train split, index 3: the label is 2"):
        Faulty(["other"], batch_size=4).setup("fit")


def test_a_data_module_without_dataset():
    class Bare(DomainDataModule):
        domains = ["a"]
        classes = ["x", "y"]

    with pytest.raises(TypeError, match=r"Bare must define dataset\(domain, split\)"):
        Bare(["a"]).setup()


def test_a_data_module_whose_init_leaves_out_that_of_the_base():
    class Own(DomainDataModule):
        domains, classes = ["a"], ["x", "y"]

        def __init__(self, sources):
            self.sources = sources

    with pytest.raises(ContractError, match=r"Own\.__init__ must call super\(\)\.__init__\(sources, targets, \.\.\.\)"):
        Own(["a"]).setup()


def test_names_may_be_properties():
    class Found(Lines):
        @property
        def domains(self):
            return ["long", "short"]

        @property
        def classes(self):
            return ["even", "odd"]

        sizes = {"long": 20, "short": 20}

    data = Found(["long"], ["short"], batch_size=4)
    data.setup()
    assert data.spec().num_classes == 2


def test_a_users_own_data_module():
    from sklearn.datasets import make_moons

    class Moons(DomainDataModule):
        domains = ["upright", "turned"]
        classes = ["upper", "lower"]

        def dataset(self, domain, split):
            x, y = (torch.tensor(array) for array in make_moons(300, noise=0.1, random_state=0))
            if domain == "turned":
                x = x @ torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=x.dtype)
            rows = self.split(domain, y)[split]
            return TensorDataset(x[rows].float(), y[rows])

    data = Moons(sources=["upright"], targets=["turned"])
    module = Recorder()
    L.Trainer(max_steps=5, limit_val_batches=0, enable_checkpointing=False, **quiet).fit(module, data)
    assert module.batches[0].source.x.shape == (32, 2)


# Under Lightning's trainer


def test_the_trainer_runs_all_stages():
    data, module = Lines(["long"], ["short"], ["other"], batch_size=8), Recorder()
    trainer = L.Trainer(max_epochs=2, num_sanity_val_steps=0, enable_checkpointing=False, **quiet)
    trainer.fit(module, data)
    assert len(module.batches) == 2 * (72 // 8)
    assert {number for number, _ in module.evaluated} == {0, 1}
    for run in (trainer.test, trainer.predict):
        module.evaluated = []
        run(module, data)
        for number, domain in enumerate(data.eval_domains):
            seen = torch.cat([batch.index for i, batch in module.evaluated if i == number])
            assert seen.tolist() == list(range(len(data.splits[domain]["test"])))


def test_the_target_is_not_loaded_when_nothing_uses_it():
    class Unread(Lines):
        read = []

        def dataset(self, domain, split):
            self.read.append((domain, split))
            return super().dataset(domain, split)

    data, module = Unread(["long"], ["short"], batch_size=50), Recorder(uses_target=False)
    L.Trainer(max_steps=3, limit_val_batches=0, enable_checkpointing=False, **quiet).fit(module, data)
    assert all(batch.target is None for batch in module.batches)
    with pytest.raises(DataError, match="there is nothing to train on"):
        L.Trainer(max_steps=3, enable_checkpointing=False, **quiet).fit(
            Recorder(uses_target=False), Lines([], ["short"], batch_size=4)
        )


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [4, 9, 13])  # within the first epoch, at its end, within the second
def test_a_resumed_run_sees_the_batches_of_one_that_was_not_interrupted(tmp_path, num_workers, stop):
    def run(module, steps, **fit):
        L.seed_everything(3, verbose=False)
        data = Lines(["long"], ["short"], batch_size=8, num_workers=num_workers, noisy=True)
        trainer = L.Trainer(max_steps=steps, limit_val_batches=0, enable_checkpointing=False, **quiet)
        trainer.fit(module, data, **fit)
        return trainer

    whole, first, rest = Recorder(), Recorder(), Recorder()
    run(whole, 20)
    run(first, stop).save_checkpoint(tmp_path / "part.ckpt")
    run(rest, 20, ckpt_path=tmp_path / "part.ckpt", weights_only=True)
    assert orders(first.batches + rest.batches) == orders(whole.batches)
    assert all(
        torch.equal(a.source.x, b.source.x) and torch.equal(a.target.x, b.target.x)
        for a, b in zip(first.batches + rest.batches, whole.batches, strict=True)
    )


def test_a_trainer_that_asks_for_a_new_loader_every_epoch_does_not_begin_again():
    def run(**options):
        L.seed_everything(3, verbose=False)
        module = Recorder()
        trainer = L.Trainer(max_epochs=3, limit_val_batches=0, enable_checkpointing=False, **options, **quiet)
        trainer.fit(module, Lines(["long"], ["short"], batch_size=8))
        return orders(module.batches)

    assert run(reload_dataloaders_every_n_epochs=1) == run()


def test_the_seed_of_the_run_sets_the_order():
    def run(seed):
        L.seed_everything(seed, verbose=False)
        module = Recorder()
        L.Trainer(max_steps=3, limit_val_batches=0, enable_checkpointing=False, **quiet).fit(
            module, Lines(["long"], ["short"], batch_size=8)
        )
        return orders(module.batches)

    assert run(1) == run(1) != run(2)


@pytest.mark.filterwarnings("ignore:You requested to overfit")  # Lightning looks at the other loaders first
def test_overfit_batches_is_refused_in_words():
    data = Lines(["long"], ["short"], batch_size=2)
    with pytest.raises(DataError, match=r"overfit_batches repeats batches.*limit_train_batches"):
        L.Trainer(overfit_batches=2, max_steps=4, limit_val_batches=0, enable_checkpointing=False, **quiet).fit(
            Recorder(), data
        )


def test_no_loader_of_a_targets_training_rows_has_their_labels():
    data = ready(["long"], ["short"], batch_size=4)
    assert all(batch.y is None for batch in data.target_train_loader())
    assert all(batch.y is not None for batch in data.reference_loader())


def test_a_negative_seed_of_the_splits_is_refused():
    with pytest.raises(DataError, match=r"hold_out\.seed must be a whole number from 0 up, got -1"):
        HoldOut(seed=-1)
