import pytest

from tlkit.data.series.wearers import in_order, persons_and_devices
from tlkit.errors import DataError

PERSONS = ["s01", "s02", "s03", "a-b", "s10"]
DEVICES = ["phone", "watch", "left/hip"]


def meant(name, persons=PERSONS, devices=DEVICES):
    found = persons_and_devices(name, persons, devices)
    return found and (sorted(found[0]), sorted(found[1]))


def test_names_that_differ_in_zeros_alone_have_an_order():
    assert in_order(["a1", "a01"]) == in_order(["a01", "a1"]) == ["a01", "a1"]


def test_every_form_of_a_name():
    assert meant("watch") == (sorted(PERSONS), ["watch"])
    assert meant("s02") == (["s02"], sorted(DEVICES))
    assert meant("s02/watch") == (["s02"], ["watch"])
    assert meant("s01-s03") == (["s01", "s02", "s03"], sorted(DEVICES))
    assert meant("s02-s03/phone") == (["s02", "s03"], ["phone"])
    assert meant("s01-s01") == (["s01"], sorted(DEVICES))


def test_names_that_hold_the_signs_themselves():
    assert meant("left/hip") == (sorted(PERSONS), ["left/hip"])
    assert meant("s01/left/hip") == (["s01"], ["left/hip"])
    assert meant("a-b") == (["a-b"], sorted(DEVICES))
    assert meant("s03-a-b/left/hip") == (["a-b", "s03"], ["left/hip"])


@pytest.mark.parametrize("name", ["s04", "", "/", "-", "s01/", "/watch", "s01-", "tablet", "s04/tablet"])
def test_a_name_that_means_nothing(name):
    assert meant(name, [*PERSONS, ""], [*DEVICES, ""]) is None


def test_a_name_that_is_half_right():
    with pytest.raises(DataError, match="'s01/wach': unknown device 'wach': did you mean 'watch'"):
        meant("s01/wach")
    with pytest.raises(DataError, match=r"'s1/watch': unknown person 's1': did you mean .*Allowed: a-b, s01"):
        meant("s1/watch", [*PERSONS, ""])
    with pytest.raises(DataError, match="a range of persons goes upwards, write s01-s03"):
        meant("s03-s01")
    assert meant("s01/x", PERSONS, [""]) is None


def test_order_of_names_is_that_of_their_numbers():
    assert in_order(["p10", "p9", "10", "9", "p1a", "p1"]) == ["9", "10", "p1", "p1a", "p9", "p10"]
