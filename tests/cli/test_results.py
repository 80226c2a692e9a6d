import re

from tlkit.cli.results import print_table
from tlkit.types import DataSpec


def test_an_interval_stands_with_its_value(capsys):
    spec = DataSpec(("a", "b"), ("a",), ("b",))
    values = {"auroc": 0.95, "auroc_low": 0.9, "auroc_high": 0.98, "all_time_high": 3.0}
    print_table(
        spec, {f"test/{domain}/{name}": v for domain in "ab" for name, v in values.items()}, ("test",), "t", "n"
    )
    out = capsys.readouterr().out
    assert "0.950 (0.900 to 0.980)" in out
    assert "auroc_low" not in out
    assert "all_time_high" in out  # no interval: there is no value "all_time"


def test_names_are_shown_as_they_are(capsys):
    spec = DataSpec(("[night]", "[/night]"), ("[night]",), ("[/night]",))
    values = {"accuracy": 0.5, "recall/[red]": 0.25, "recall/:cat:": 0.75}
    metrics = {f"test/{domain}/{name}": value for domain in spec.domains for name, value in values.items()}
    print_table(spec, metrics, ("test",), "t", "")
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["[night]", "source", "0.500"] in lines
    assert ["[/night]", "target", "0.500"] in lines
    assert ["recall of class", "[night]", "[/night]"] in lines
    assert ["[red]", "0.250", "0.250"] in lines
    assert [":cat:", "0.750", "0.750"] in lines


def test_classes_have_a_table_of_their_own_that_ends(capsys):
    spec = DataSpec(("month-25", "month-25/second phone", "other"), ("month-25",), ("month-25/second phone",))
    metrics = {
        "test/month-25/accuracy": 0.5,
        "test/month-25/recall/c1": 0.125,
        "test/month-25/second phone/accuracy": 0.25,
        **{f"test/month-25/second phone/recall/c{number}": 0.75 for number in range(345)},
    }
    print_table(spec, metrics, ("test",), "t", "n", "run/summary.json")
    domains, classes = capsys.readouterr().out.split("recall of class")
    assert "recall" not in domains
    assert "second phone/accuracy" not in domains
    assert domains.count("accuracy") == 1
    lines = classes.splitlines()
    assert next(line for line in lines if "c1 " in line).split("│")[2:4] == ["    0.125 ", "                 0.750 "]
    assert next(line for line in lines if "c0 " in line).split("│")[2].strip() == ""
    assert sum("0.750" in line for line in lines) == 20
    assert lines[-2:] == ["and 325 more classes: run/summary.json", "n"]
