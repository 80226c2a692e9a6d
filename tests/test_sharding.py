"""FSDP2: shards give the numbers of one process, and checkpoints that anything reads. Real processes, gloo."""

import json
import re
from dataclasses import replace
from functools import cache

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

import tlkit
import tlkit.errors
from tests.data.text_files import write_reviews, write_tokenizer
from tests.ranks import on_ranks
from tests.scaling import BACKBONE_CASES, LOSSES, OTHERS, distance, several, train
from tlkit.cli.main import main
from tlkit.finetuning import GradualUnfreezing, LoRA
from tlkit.losses import CDAN, DANN, DELTA, L2SP
from tlkit.sharding import _blocks

pytestmark = pytest.mark.ddp
BERT = replace(
    BACKBONE_CASES["TransformersBackbone"],
    losses=lambda: [loss for loss in several() if not isinstance(loss, L2SP)],
    trainer={},
)
NO_DROPOUT = "{hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}"
CASES = {
    "bert": BERT,
    "cdan and delta": replace(BERT, losses=lambda: [CDAN(entropy=True), DELTA()]),
    "separate": replace(BERT, options=lambda: {"batch_norm": "separate"}),
    "lora": replace(BERT, options=lambda: {"finetuning": LoRA(rank=2)}),
    "gradual": replace(BERT, options=lambda: {"finetuning": GradualUnfreezing(over=0.6)}),
    "clipped": replace(BERT, trainer={"gradient_clip_val": 0.1}),
    "accumulated": replace(BERT, losses=lambda: [DANN(hidden_size=8)], trainer={"accumulate_grad_batches": 2}),
    "vision transformer": replace(BACKBONE_CASES["timm test_vit"], losses=BERT.losses, trainer={}),
    "batch norm over ranks": replace(OTHERS["batch norm over ranks"], losses=BERT.losses),
    "hash_entropy": LOSSES["hash_entropy"],
    "hash_pairwise": LOSSES["hash_pairwise"],
}


class Shards(L.Callback):
    """Remembers which parameters are shared out when training begins."""

    whole, share = None, 0.0

    def on_train_start(self, trainer, module):
        learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.whole = [name for name, parameter in learning.items() if not isinstance(parameter, DTensor)]
        held = sum(p.to_local().numel() for p in learning.values() if isinstance(p, DTensor))
        self.share = held / sum(parameter.numel() for parameter in learning.values())


QUICK = ("bert", "lora", "clipped", "accumulated", "batch norm over ranks", "hash_pairwise")
SLOW = tuple(name for name in CASES if name not in QUICK)


def sharded(world, names):
    found = {}
    for name in names:
        case, shards = CASES[name], Shards()
        found[name] = train(case, world, strategy="fsdp2" if world > 1 else "auto", steps=6, callbacks=[shards])
        found[name].shards = shards.whole, shards.share
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a function that runs cases on one process and on two, once, and returns what both found."""

    @cache
    def run(names):
        return sharded(1, names), on_ranks(2, sharded, 2, names, folder=tmp_path_factory.mktemp("ranks"))

    return run


@pytest.mark.parametrize(
    ("names", "name"),
    [*((QUICK, name) for name in QUICK), *(pytest.param(SLOW, name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_two_ranks_with_a_share_each_equal_one(results, names, name):
    one, two = results(names)
    for ranks in two:
        result = ranks[name]
        assert distance(one[name].gradient, result.gradient) < 1e-12
        assert distance(one[name].weights, result.weights) < 1e-12
        np.testing.assert_allclose(result.losses, one[name].losses, rtol=1e-12)
        assert result.metrics == pytest.approx(one[name].metrics, abs=1e-6)
        whole, share = result.shards
        assert whole == []  # nothing that learns is left out of the shards
        assert 0.4 < share < 0.6


def test_blocks_are_the_outermost_that_repeat():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(2)])

    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))  # too small to gather one by one
    encoder = nn.ModuleDict({"plain": plain, "layers": nn.ModuleList([Layer(), Layer()]), "head": nn.Linear(2, 2)})
    assert list(_blocks(encoder)) == list(encoder["layers"])


def words(folder, run, steps):
    tiny = folder / "bert"
    return [
        "fit", "--config", "text/amazon_bert_large_electronics_to_dvd_mmd", f"--model.backbone.name_or_folder={tiny}",
        "--model.backbone.pretrained=false", f"--data.tokenizer={tiny}", f"--data.root={folder / 'reviews'}",
        "--trainer.accelerator=cpu", f"--trainer.max_steps={steps}", "--trainer.val_check_interval=2",
        "--trainer.precision=32", "--model.lr_schedule=null", f"--model.backbone.model_args={NO_DROPOUT}",
        "--trainer.log_every_n_steps=1", "--data.batch_size=4", f"--runs={folder / 'runs'}", f"--run_id={run}",
    ]  # fmt: skip


def commands(*several_words):
    return [main(list(each)) for each in several_words]


def scores(text):
    return re.findall(r"^│ (\w+) +│ (?:source|target) │ +([\d.]+)", text, flags=re.MULTILINE)


def test_the_recipe_trains_resumes_and_leaves_checkpoints_that_one_process_reads(tmp_path, capsys):
    write_tokenizer(tmp_path / "bert")
    (tmp_path / "reviews").mkdir()
    write_reviews(tmp_path / "reviews", count=80)
    runs = tmp_path / "runs" / "text" / "amazon_bert_large_electronics_to_dvd_mmd"
    resume = ["fit", "--resume", str(runs / "parted"), "--trainer.max_steps=8"]
    whole, parted = words(tmp_path, "whole", 8), words(tmp_path, "parted", 4)
    assert on_ranks(2, commands, whole, parted, resume, folder=tmp_path) == [[0] * 3] * 2
    summary = json.loads((runs / "parted" / "summary.json").read_text())
    assert summary["train"]["steps"] == 8
    assert summary["environment"]["world_size"] == 2
    assert (runs / "parted" / "checkpoints" / "last.ckpt").is_file()
    # The optimizer came back with the weights: Adam's moments are in every later step.
    models = [tlkit.load(runs / run / "checkpoints" / "last.ckpt").state_dict() for run in ("whole", "parted")]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=0, atol=1e-6)
    # One process, another strategy.
    capsys.readouterr()
    assert main(["test", "--config", str(runs / "parted" / "config.yaml"), "--trainer.strategy=auto"]) == 0
    tested = scores(capsys.readouterr().out)
    assert tested == [(name, f"{summary['metrics'][f'test/{name}/accuracy']:.3f}") for name in ("electronics", "dvd")]
    longer = ["fit", "--resume", str(runs / "parted"), "--trainer.max_steps=10", "--trainer.strategy=auto"]
    assert main(longer) == 0
    assert json.loads((runs / "parted" / "summary.json").read_text())["train"]["steps"] == 10


def other_checkpoint(folder):
    """Load a checkpoint of another model, and return the words it is refused with."""
    torch.save({"state_dict": {"other": torch.zeros(1)}, "pytorch-lightning_version": "2.6.4"}, folder / "other.ckpt")
    try:
        train(BERT, 2, strategy="fsdp2", steps=1, ckpt_path=str(folder / "other.ckpt"))
    except tlkit.errors.CheckpointError as error:
        return str(error)


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    for text in on_ranks(2, other_checkpoint, tmp_path, folder=tmp_path):
        assert "the checkpoint is of another model" in text
