import pytest

from tlkit.cli.options import override, parse_options
from tlkit.errors import ConfigurationError


def test_both_spellings_and_yaml_values():
    words = ["--config", "a", "--trainer.max_steps", "-1", "--data.sources=[a, b]", "--model.optimizer.lr=1e-4"]
    options = parse_options("fit", [*words, "--print_config"], own=["config"], flags=["print_config"])
    assert options.own == {"config": "a", "print_config": ""}
    assert options.overrides == {
        "trainer.max_steps": -1,
        "data.sources": ["a", "b"],
        "model.optimizer.lr": 1e-4,
    }


def test_names_are_words_whatever_they_look_like():
    options = parse_options("fit", ["--run_id=007", "--recipe", "1e3", "--seed_everything=7"], own=[])
    assert options.overrides == {"run_id": "007", "recipe": "1e3", "seed_everything": 7}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--conf", "a"], "unknown option of tlkit fit '--conf': did you mean '--config'"),
        (["--trainr.max_steps=1"], "unknown option of tlkit fit '--trainr.max_steps': did you mean '--trainer'"),
        (["--seed=1"], "'--seed_everything'"),
        (["--config"], "--config needs a value"),
        (["--config", "--data.x=1"], "--config needs a value"),
        (["--config=a", "--config=b"], "--config is given twice"),
        (["--data.x=1", "--data.x=2"], "--data.x is given twice"),
        (["-c", "a"], "takes options"),
        (["--help-all=1"], "takes no value"),
        (["--data.x=[1"], "the value of --data.x is not valid YAML"),
    ],
)
def test_refused(words, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_options("fit", words, own=["config"], flags=["help-all"])


def nested():
    return {
        "data": {"class_path": "Digits"},
        "model": {
            "backbone": "ConvNet",
            "adaptation": ["MMD", {"class_path": "my.CORAL", "init_args": {"weight": 1.0}}],
        },
    }


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("data.batch_size", 8, lambda r: r["data"]["init_args"]["batch_size"]),
        ("data.init_args.batch_size", 8, lambda r: r["data"]["init_args"]["batch_size"]),
        ("data", "Folders", lambda r: r["data"]),
        ("trainer.max_steps", 8, lambda r: r["trainer"]["max_steps"]),
        ("model.backbone.channels", [1], lambda r: r["model"]["backbone"]["init_args"]["channels"]),
        ("model.adaptation.0.weight", 2, lambda r: r["model"]["adaptation"][0]["init_args"]["weight"]),
        ("model.adaptation.MMD.weight", 2, lambda r: r["model"]["adaptation"][0]["init_args"]["weight"]),
        ("model.adaptation.CORAL.weight", 2, lambda r: r["model"]["adaptation"][1]["init_args"]["weight"]),
        (
            "model.adaptation.CORAL.weight.class_path",
            "Linear",
            lambda r: r["model"]["adaptation"][1]["init_args"]["weight"]["class_path"],
        ),
        ("model.adaptation.1", "DANN", lambda r: r["model"]["adaptation"][1]),
        ("model.adaptation", [], lambda r: r["model"]["adaptation"]),
    ],
)
def test_override(key, value, read):
    recipe = nested()
    override(recipe, key, value)
    assert read(recipe) == value


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.adaptation.MDM.weight", "did you mean 'MMD'"),
        ("model.adaptation.2.weight", "unknown entry of model.adaptation '2'"),
        ("model.adaptation.CORAL.weight.gamma", "model.adaptation.CORAL.weight is 1.0 and has no keys"),
        ("data..x", "not a dotted key"),
    ],
)
def test_override_that_leads_nowhere(key, message):
    with pytest.raises(ConfigurationError, match=message):
        override(nested(), key, 1)


def test_a_class_named_twice_needs_its_number():
    recipe = {"model": {"adaptation": ["MMD", "MMD"]}}
    with pytest.raises(ConfigurationError, match=r"name one by its number: \['0', '1'\]"):
        override(recipe, "model.adaptation.MMD.weight", 1)
