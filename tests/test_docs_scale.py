"""Every row of the table of docs/scale.md is run, so that it cannot go stale."""

import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy

import tlkit.losses
from tests.ranks import on_ranks
from tests.scaling import Case, hashing, train
from tests.shift import MLP
from tlkit.callbacks import CompileBackbone
from tlkit.errors import ConfigurationError
from tlkit.losses import AdaptationLoss
from tlkit.tasks import Classification

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
PRECISIONS = ("32", "bf16-mixed", "16-mixed", "64")
TABLE = re.search(r"^\| losses \| strategy \|(.*)\n\|[-|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
ROWS = {
    (losses, strategy): dict(zip(PRECISIONS, cells, strict=True))
    for losses, strategy, *cells in ([cell.strip() for cell in row.split("|")[1:-1]] for row in TABLE[2].splitlines())
}
REASONS = dict(re.findall(r"^(\d)\. `([^`]+)`", PAGE, flags=re.MULTILINE))
# How far the losses of four steps may be from those of one device in full precision.
NEAR = {"64": 1e-10, "32": 1e-4, "bf16-mixed": 5e-2, "16-mixed": 1e-2}
ARGUMENTS = {
    "DANN": {"hidden_size": 8},
    "CDAN": {"hidden_size": 8},
    "L2SP": {"weight": 0.1},
    "BSS": {"weight": 0.01},
    "DELTA": {"layers": ["layers.0", "layers.3"]},
}
STRATEGIES = {"one device": "auto", "ddp": "ddp", "fsdp2": "fsdp2"}


def case(losses):
    names = re.findall(r"`(\w+)`", losses)
    made = [partial(getattr(tlkit.losses, name), **ARGUMENTS.get(name, {})) for name in names]
    return Case(lambda: [make() for make in made], task=hashing if "HashPairwise" in names else Classification)


def outcome(row, precision, compiled):
    """Run a cell and return its losses, or the words it was refused with."""
    losses, strategy = row
    options = {"callbacks": [CompileBackbone(backend="aot_eager")] if compiled else []}
    if precision == "16-mixed":  # by name Lightning would take another on the CPU
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        options |= {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)], "precision": None}
    elif precision == "bf16-mixed":
        options["precision"] = precision
    dtype = torch.float64 if precision == "64" else torch.float32
    world = 1 if strategy == "one device" else 2
    try:
        return train(case(losses), world, dtype, steps=4, strategy=STRATEGIES[strategy], **options).losses
    except ConfigurationError as error:
        return str(error)


def outcomes(rows, compiled):
    """Run the cells of several rows, compiled with the precisions that are named."""
    return {
        (row, precision, is_compiled): outcome(row, precision, is_compiled)
        for row in rows
        for precision in PRECISIONS
        for is_compiled in ((False, True) if precision in compiled else (False,))
    }


def quick_or_slow(precisions):
    return pytest.mark.parametrize(
        "precisions", [(), pytest.param(precisions, marks=[pytest.mark.slow, pytest.mark.timeout(900)])], ids=str
    )


ONE = [row for row in ROWS if row[1] == "one device"]
MANY = [row for row in ROWS if row[1] != "one device"]


@cache
def expected(losses, precision):
    """Return what one device finds: in float64, where the head starts from other numbers, or else in float32."""
    return outcome((losses, "one device"), "64" if precision == "64" else "32", False)


def check(row, found):
    for (_, precision, compiled), result in found.items():
        cell = ROWS[row][precision]
        where = f"{row}, {precision}, {'compiled' if compiled else 'not compiled'}: {result}"
        if cell == "works":
            assert not isinstance(result, str), where
            reference = expected(row[0], precision)
            assert len(reference) == 4
            np.testing.assert_allclose(result, reference, rtol=NEAR[precision], atol=NEAR[precision], err_msg=where)
        else:
            assert REASONS[re.fullmatch(r"refused (\d)", cell)[1]] in result, where


def test_the_table_has_every_loss_with_every_strategy():
    assert re.findall(r"[\w-]+", TABLE[1]) == list(PRECISIONS)
    public = set(tlkit.losses.__all__) - {AdaptationLoss.__name__}
    for strategy in STRATEGIES:
        named = [name for losses, other in ROWS if other == strategy for name in re.findall(r"`(\w+)`", losses)]
        assert sorted(named) == sorted(public)
        assert ("none", strategy) in ROWS


@pytest.mark.parametrize("row", ONE, ids=str)
@quick_or_slow(PRECISIONS)
def test_one_device(row, precisions):
    check(row, outcomes([row], precisions or ("32",)))


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    known = {}

    def run(precisions):
        if precisions not in known:
            folder = tmp_path_factory.mktemp("ranks")
            known[precisions] = on_ranks(2, outcomes, MANY, precisions, folder=folder)
        return known[precisions]

    return run


@pytest.mark.ddp
@pytest.mark.parametrize("row", MANY, ids=str)
@quick_or_slow(PRECISIONS)
def test_two_ranks(on_two, row, precisions):
    for found in on_two(precisions):
        check(row, {key: result for key, result in found.items() if key[0] == row})


def other_refusals():
    """Run what the list under the table names besides the table's cells, and return the words."""
    plain, norm = case("`MMD`"), replace(case("`MMD`"), backbone=lambda: MLP(batch_norm=True))
    adabn = replace(norm, losses=list, options=lambda: {"batch_norm": "adabn"})
    refused = {
        "3": (plain, {"accumulate_grad_batches": 2}),
        "4": (norm, {"strategy": "fsdp2"}),
        "5": (adabn, {"sync_batchnorm": True, "limit_val_batches": 1}),
        "6": (plain, {"strategy": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)}),
    }
    words = {}
    for number, (refused_case, options) in refused.items():
        with pytest.raises(ConfigurationError) as error:
            train(refused_case, 2, torch.float32, **options)
        words[number] = str(error.value)
    return words


@pytest.mark.ddp
def test_what_else_is_refused(tmp_path):
    for words in on_ranks(2, other_refusals, folder=tmp_path):
        assert set(REASONS) == {"1", "2", *words}
        for number, text in words.items():
            assert REASONS[number] in text


def test_what_the_page_says_of_accumulation():
    told = dict(re.findall(r"^\| (accumulate|are refused) \| (.*) \|", PAGE, flags=re.MULTILINE))
    for kind, answer in (("accumulate", True), ("are refused", False)):
        for name in set(re.findall(r"`([A-Z]\w+)`", told[kind])) - {"CDAN"}:
            assert getattr(tlkit.losses, name)().accumulates is answer, name
    every = re.findall(r"`([A-Z]\w+)`", " ".join(told.values()))
    assert set(every) == set(tlkit.losses.__all__) - {"AdaptationLoss"}
