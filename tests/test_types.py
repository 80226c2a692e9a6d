import pytest

from tlkit.types import DataSpec


def spec(*names, **values):
    return DataSpec(("a",), ("a",), (), input_names=names, **values)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("abc", "acb", "in another order, column 1 was 'b' and is 'c'"),
        ("abc", "ab", "the 2 of the data are others: 1 missing ('c')."),
        ("ab", "abcdef", "4 new ('c', 'd', 'e', ...)."),
        ("abc", "bcd", "1 missing ('a') and 1 new ('d')."),
    ],
)
def test_other_columns_are_told(old, new, message):
    assert message in spec(*old).difference(spec(*new))


@pytest.mark.parametrize(("old", "new"), [("abc", "abc"), ("abc", ""), ("", "abc"), ("", "")])
def test_columns_without_names_may_be_the_same(old, new):
    assert spec(*old).difference(spec(*new)) is None


def test_labels_are_compared_first():
    old, new = spec("a", classes=("x", "y")), spec("b", classes=("y", "x"))
    assert old.difference(new) == "was built for the classes ['x', 'y'], the data has ['y', 'x']"
    old, new = spec(quantities=("x_m",)), spec(classes=("0", "1"))
    assert "the classes [], the data has ['0', '1']" in old.difference(new)


def test_what_an_older_checkpoint_does_not_have_is_not_known():
    stored = {"domains": ["a"], "sources": ["a"], "targets": [], "classes": ["x", "y"]}
    old = DataSpec.from_checkpoint(stored)
    assert old.input_names == ()
    assert old.difference(spec("a", "b", classes=("x", "y"))) is None
