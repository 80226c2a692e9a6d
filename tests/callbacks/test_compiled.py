import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import SGD

from tests.scaling import LOSSES, QUIET, train
from tests.shift import MLP, ShiftedBlobs
from tlkit import TransferModule
from tlkit.callbacks import CompileBackbone
from tlkit.errors import ConfigurationError
from tlkit.finetuning import GradualUnfreezing
from tlkit.losses import DELTA, MMD
from tlkit.tasks import Classification


class Compiled(L.Callback):
    """Counts how often the backend was asked to compile, and whether the backbone was compiled in training."""

    def __init__(self):
        self.in_training = False

    def on_train_batch_start(self, trainer, module, *_):
        self.in_training = module.network.backbone._compiled_call_impl is not None


def fit(steps, *callbacks, ckpt_path=None, losses=()):
    L.seed_everything(3)
    module = TransferModule(
        MLP(batch_norm=True).double(),
        Classification(),
        [MMD(), *losses],
        optimizer=lambda p: SGD(p, lr=0.05, momentum=0.9),
    )
    trainer = L.Trainer(callbacks=list(callbacks), **{**QUIET, "max_steps": steps, "precision": "64-true"})
    trainer.fit(
        module,
        ShiftedBlobs(["still"], ["moved"], dtype=torch.float64),
        ckpt_path=ckpt_path,
        weights_only=ckpt_path and True,
    )
    return module, trainer


class Failing(L.Callback):
    def on_train_batch_end(self, *_):
        raise RuntimeError("failed")


def fail(backend, **arguments):
    """Return a module whose training fails in its first step."""
    module = TransferModule(MLP(), Classification(), **arguments)
    trainer = L.Trainer(callbacks=[CompileBackbone(backend=backend), Failing()], **{**QUIET, "max_steps": 2})
    with pytest.raises(RuntimeError, match="failed"):
        trainer.fit(module, ShiftedBlobs(["still"]))
    return module


def test_a_backbone_is_itself_again_after_an_error():
    module = fail("aot_eager")
    assert module.network.backbone._compiled_call_impl is None


def test_a_compiled_backbone_learns_the_same_under_the_same_names_and_is_itself_again(tmp_path):
    plain, _ = fit(6)
    watch = Compiled()
    module, trainer = fit(6, CompileBackbone(backend="aot_eager"), watch)
    assert watch.in_training
    assert module.network.backbone._compiled_call_impl is None
    assert type(module.network.backbone) is MLP
    assert module.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-10, atol=1e-12)
    trainer.save_checkpoint(tmp_path / "compiled.ckpt")
    whole, _ = fit(9)
    for callbacks in ((), (CompileBackbone(backend="aot_eager"),)):
        resumed, _ = fit(9, *callbacks, ckpt_path=tmp_path / "compiled.ckpt")
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def counting():
    """Return a callback that compiles to what was there, and the list of what it was asked to compile."""
    asked = []

    def backend(graph, inputs):
        asked.append(graph)
        return graph

    compiling = CompileBackbone(backend="eager")
    compiling.backend = backend
    return compiling, asked


def test_it_is_compiled_indeed():
    compiling, asked = counting()
    fit(3, compiling)
    assert asked
    assert any("tanh" in graph.code for graph in asked)
    assert not any("softmax" in graph.code or "cdist" in graph.code for graph in asked)  # neither head nor losses


def test_delta_sees_the_layers_of_a_compiled_backbone():
    """Its hooks come after the compilation, which would not call them: the distance would be missing, or stale."""
    delta = {"losses": [DELTA(layers=["layers.0", "layers.3"], weight=5.0)]}
    plain, _ = fit(6, **delta)
    delta = {"losses": [DELTA(layers=["layers.0", "layers.3"], weight=5.0)]}
    compiled, _ = fit(6, CompileBackbone(backend="aot_eager"), **delta)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_inductor_generates_code_that_learns_the_same():
    case = LOSSES["several"]
    plain = train(case, 1, torch.float32, steps=6)
    generated = train(case, 1, torch.float32, steps=6, callbacks=[CompileBackbone()])
    assert generated.losses == pytest.approx(plain.losses, rel=1e-4)


def test_without_a_compiler_it_is_refused_before_training(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigurationError, match=r"there is no compiler 'no-such-compiler': install one .* CXX"):
        fit(1, CompileBackbone())


def test_an_unknown_backend():
    with pytest.raises(ConfigurationError, match="unknown backend 'inducter': did you mean 'inductor'"):
        CompileBackbone(backend="inducter")


def test_every_start_of_a_layer_is_compiled_however_many_there_are(caplog):
    """Torch gives up at 8 versions of a function, and says so in its log alone."""
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.1)) for _ in range(11)]
    backbone = nn.Sequential(nn.Linear(8, 6), *layers)
    backbone.num_features = 6
    module = TransferModule(backbone, Classification(), finetuning=GradualUnfreezing(over=0.9))
    compiling, asked = counting()
    before = torch._dynamo.config.recompile_limit
    torch.compiler.reset()  # what other tests compiled counts too
    L.Trainer(callbacks=[compiling], **{**QUIET, "max_steps": 24}).fit(module, ShiftedBlobs(["still"]))
    assert len(asked) == 12  # before the first start, and from each of 11: what learns last has no mode that matters
    assert not [record for record in caplog.records if "_limit" in record.getMessage() and record.levelname != "DEBUG"]
    assert torch._dynamo.config.recompile_limit == before


def test_the_limit_is_as_before_after_an_error():
    before = torch._dynamo.config.recompile_limit
    fail("eager", finetuning=GradualUnfreezing())
    assert torch._dynamo.config.recompile_limit == before
