"""What ``tlkit list KIND NAME`` and ``tlkit fit --help-all`` show of the arguments there are."""

import re

import pytest

from tlkit.cli.arguments import of_class
from tlkit.cli.main import main
from tlkit.cli.names import listing
from tlkit.cli.request import fit_request
from tlkit.errors import ConfigurationError

KINDS = ["backbones", "losses", "tasks", "data", "finetuning", "callbacks"]


def test_a_class_is_shown_with_its_arguments(capsys):
    assert main(["list", "data", "Digits"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tlkit.data.Digits\n\nMNIST, USPS, optdigits")
    assert "  sources  list of str, required\n      Labelled domains." in out
    assert "  channels  1 | 3, default 1\n      1: colour images" in out
    assert "  batch_size  int, default 32\n" in out  # behind **kwargs
    assert "  hold_out.val_fraction  float, default 0.1\n" in out
    assert "  targets  list of str | null, default null\n" in out


@pytest.mark.parametrize("kind", KINDS)
def test_every_argument_of_every_class_is_described(kind):
    for name in re.findall(r"^\w+", listing(kind), flags=re.MULTILINE):
        text = of_class(kind, name)
        assert "``" not in text
        assert "known subclasses" not in text
        arguments = text.partition("\n\nArguments:\n")[2]
        assert bool(arguments) != text.endswith("No arguments.")
        assert not re.search(r"^  \S.*\n(?!      )", f"{arguments}\n", flags=re.MULTILINE), arguments


def test_a_class_of_ones_own_is_named_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_described.py").write_text(
        "from tlkit.losses import AdaptationLoss\n\n\nclass Mine(AdaptationLoss):\n"
        '    """Pull.\n\n    Args:\n        power: Of the distance.\n    """\n\n'
        "    def __init__(self, power: int = 2, weight=1.0, *, other):\n        super().__init__(weight)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = of_class("losses", "my_described.Mine")
    assert text.startswith("my_described.Mine\n\nPull.\n\nArguments:\n  other  any value, required\n")
    assert "  power  int, default 2\n      Of the distance." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["losses", "CORL"], "unknown adaptation loss 'CORL': did you mean 'CORAL'"),
        (["losses", "Digits"], "unknown adaptation loss 'Digits'"),
        (["loss", "MMD"], "unknown list 'loss': did you mean 'losses'"),
        (["losses", "MMD", "CORAL"], "got 3 words"),
    ],
)
def test_names_that_are_not_there(words, message, capsys):
    assert main(["list", *words]) == 2
    assert message in capsys.readouterr().err


def test_help_all_has_what_works_and_nothing_else(capsys):
    assert main(["fit", "--help-all"]) == 0
    out = capsys.readouterr().out
    for option in ("--config", "--resume", "--model.backbone", "--model.optimizer", "--data", "--trainer.max_steps"):
        assert option in out
    for refused in ("-c CONFIG", ".help", "known subclasses", "--trainer.logger", "--trainer.default_root_dir"):
        assert refused not in out
    assert len(out.splitlines()) < 300
    for key in re.findall(r"^  (--(?:model|trainer)\.\w+)  ", out, flags=re.MULTILINE):
        fit_request(["--config", "digits/mnist_to_optdigits_mmd", f"{key}=null"])


def test_an_unknown_kind():
    with pytest.raises(ConfigurationError, match="unknown list 'loss'"):
        of_class("loss", "MMD")
