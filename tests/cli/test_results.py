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
