import math
from pathlib import Path

import pytest

from tlkit.cli import recipes
from tlkit.cli.main import main
from tlkit.errors import ConfigurationError, DataError

MMD = "digits/mnist_to_optdigits_mmd"


def test_recipes_that_come_with_tlkit_have_names_and_titles():
    found = recipes.find_recipes()
    assert MMD in found
    assert all(title for title in found.values())


def test_listing_is_filtered_by_name_and_title(capsys):
    assert main(["recipes", "MMD"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(MMD)]
    assert all("mmd" in line.lower() for line in lines)


def test_recipe_by_name_and_by_path(tmp_path):
    assert recipes.find_recipe(MMD).name == "mnist_to_optdigits_mmd.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {}")
    assert recipes.find_recipe(str(mine)) == mine
    assert recipes.recipe_name(mine) == "mine"
    assert recipes.recipe_name(recipes.find_recipe(MMD)) == MMD


def test_recipes_inside_the_package_come_first(tmp_path, monkeypatch):
    installed = tmp_path / "tlkit" / "recipes" / "text"
    installed.mkdir(parents=True)
    (installed / "a.yaml").write_text("# A title\nmodel: {}\n")
    monkeypatch.setattr(recipes, "_ROOTS", (installed.parent, *recipes._ROOTS))
    assert recipes.find_recipes() == {"text/a": "A title"}


def test_misspelt_recipe(capsys):
    assert main(["fit", "--config", "digits/mnist_to_optdigit_mmd"]) == 2
    error = capsys.readouterr().err
    assert f"did you mean '{MMD}'" in error
    assert "'tlkit recipes' lists the recipes" in error
    assert len(error) < 400  # not all their names


def test_the_name_of_a_recipe_with_the_end_of_its_file():
    assert recipes.find_recipe(f"{MMD}.yaml") == recipes.find_recipe(MMD)


def test_a_recipe_whose_name_is_left_empty_has_that_of_its_file(tmp_path):
    from tlkit.cli.request import fit_request

    mine = tmp_path / "mine.yaml"
    mine.write_text("recipe:\nmodel: {backbone: ConvNet}\ndata: Digits\n")
    request = fit_request(["--config", str(mine), "--run_id=r", "--resume=auto"])
    assert request.recipe["recipe"] == "mine"


@pytest.mark.parametrize(
    ("config", "message"), [("missing.yaml", "no file 'missing.yaml'"), (".", "is a folder; give a YAML file")]
)
def test_path_that_is_no_recipe(config, message):
    with pytest.raises(ConfigurationError, match=message):
        recipes.find_recipe(config)


def test_copy_writes_the_same_text_and_never_over_a_file(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    assert main(["copy", MMD, str(mine)]) == 0
    assert mine.read_text() == recipes.find_recipe(MMD).read_text()
    assert f"tlkit fit --config {mine}" in capsys.readouterr().out
    mine.write_text("mine now")
    assert main(["copy", MMD, str(mine)]) == 2
    assert "exists and is not written over" in capsys.readouterr().err
    assert mine.read_text() == "mine now"


def test_copy_into_a_folder_and_to_nowhere(tmp_path):
    assert recipes.copy_recipe(MMD, str(tmp_path)) == tmp_path / "mnist_to_optdigits_mmd.yaml"
    with pytest.raises(DataError, match="cannot be written"):
        recipes.copy_recipe(MMD, str(tmp_path / "no" / "folder.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-2E5", -2e5), (".5e1", 5.0), ("3", 3), ("on", "on"), ("no", "no"), ("true", True),
        ("[mnist, usps]", ["mnist", "usps"]), ("null", None), (".inf", math.inf), ("e5", "e5"), ("0.25", 0.25),
    ],
)  # fmt: skip
def test_yaml_as_people_write_it(text, value):
    assert recipes.parse_yaml(text, "a test") == value


def test_a_key_given_twice_is_refused():
    with pytest.raises(ConfigurationError, match="the key 'lr' is given twice"):
        recipes.parse_yaml("lr: 1\nlr: 2\n", "mine.yaml")


@pytest.mark.parametrize(("text", "message"), [("- a", "must be a mapping"), ("a: [", "mine.yaml is not valid YAML")])
def test_files_that_are_not_recipes(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        recipes.read_recipe(path)


def test_binary_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        recipes.read_recipe(Path(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 50 + "]" * 50, "nested more than 40 deep"),
        ("a: " + "[" * 2000, "nested too deeply"),
        ("a: &a [1, *a]", "an alias stands inside what it names"),
        ("a: &a {b: *a}", "an alias stands inside what it names"),
        ("[&a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], " + ", ".join(
            f"&{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcde", "bcdef", strict=True)) + "]",
         "with its aliases unfolded it holds more than 50,000 values"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ("x" * 1_000_001, "has 1,000,001 characters, a recipe has at most 1,000,000"),
        ("{[a]: 1}", "a key must be a word or a number"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice"),
    ],
)  # fmt: skip
def test_yaml_that_would_keep_the_machine_busy(text, message):
    with pytest.raises(ConfigurationError, match=message):
        recipes.parse_yaml(text, "mine.yaml")


def test_aliases_are_of_use():
    assert recipes.parse_yaml("a: &a [1, 2]\nb: *a", "mine.yaml") == {"a": [1, 2], "b": [1, 2]}
