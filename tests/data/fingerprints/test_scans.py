import numpy as np
import pytest

from tlkit.data.fingerprints.scans import check_metres, represent
from tlkit.errors import DataError

RSSI = np.array([[-104.0, np.nan, -50.0, 0.0]])


@pytest.mark.parametrize(
    ("representation", "expected"),
    [
        ("positive", [1 / 105, 0.0, 55 / 105, 1.0]),
        ("powed", [(1 / 105) ** np.e, 0.0, (55 / 105) ** np.e, 1.0]),
        # exp((r - w) / 24) / exp(-w / 24) of the paper
        ("exponential", [np.exp(1 / 24) / np.exp(105 / 24), 0.0, np.exp(55 / 24) / np.exp(105 / 24), 1.0]),
    ],
)
def test_representations_are_those_of_the_paper(representation, expected):
    found = represent(RSSI, representation, -105.0)
    assert found.dtype == np.float32
    assert found[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert found[0, 1] == 0.0
    assert 0 < found[0, 0] < found[0, 2] < found[0, 3] == 1.0  # the weakest that is heard is not missing


def test_the_exponent_of_powed():
    assert represent(RSSI, "powed", -105.0, 1.0)[0] == pytest.approx(represent(RSSI, "positive", -105.0)[0])
    assert represent(RSSI, "powed", -105.0, 2.0)[0, 2] == pytest.approx((55 / 105) ** 2)


def test_degrees_are_guessed_and_the_message_says_so():
    degrees = np.array([[-0.06731, 39.99400], [-0.06702, 39.99412]])
    with pytest.raises(DataError, match=r"a.csv: 'lon' and 'lat' look like degrees. This is a guess.*0.00029.*Project"):
        check_metres(degrees, "a.csv", ("lon", "lat"), (0.0, 0.0))
    with pytest.raises(DataError, match="This is a guess"):  # an origin taken away does not hide it
        check_metres(degrees - (-0.0673, 39.99), "a.csv", ("lon", "lat"), (-0.0673, 39.99))
    town = np.array([[-0.0673, 39.5940], [0.3702, 39.9941]])
    with pytest.raises(
        DataError, match=r"This is a guess.*0.43750 and 0.40010.*nothing surveyed is under a metre wide"
    ):
        check_metres(town, "a.csv", ("x", "y"), (0.0, 0.0))
    with pytest.raises(DataError, match=r"add 1000 to both columns and set origin to \[1002.0, 1039.0\]"):
        check_metres(town - (2.0, 39.0), "a.csv", ("x", "y"), (2.0, 39.0))
    check_metres(town + 1000 - (1002.0, 1039.0), "a.csv", ("x", "y"), (1002.0, 1039.0))  # metres after all
    country = np.array([[-7.5, 37.0], [3.2, 43.1]])
    with pytest.raises(DataError, match=r"'gps_lon' and 'Latitude' look like degrees. This is a guess.*are called so"):
        check_metres(country, "a.csv", ("gps_lon", "Latitude"), (0.0, 0.0))
    check_metres(country, "a.csv", ("x", "y"), (0.0, 0.0))
    check_metres(country, "a.csv", ("along", "flat"), (0.0, 0.0))
    check_metres(country * 40, "a.csv", ("LONGITUDE", "LATITUDE"), (0.0, 0.0))  # a set that misnames its metres
    check_metres(np.array([[0.0, 0.0], [3.0, 0.0]]), "a.csv", ("x", "y"), (0.0, 0.0))  # a corridor of 3 m
    check_metres(np.array([[1.0, 2.0], [1.0, 2.0]]), "a.csv", ("x", "y"), (0.0, 0.0))  # a single place


def test_coordinates_that_float32_would_round_are_refused_with_an_origin_that_helps():
    far = np.array([[-7500.0, 4_864_745.7], [-7400.0, 4_864_900.2]])
    with pytest.raises(DataError, match=r"up to 4864900 m from the origin .* such as \[-7500.0, 4864700.0\]"):
        check_metres(far, "a.csv", ("x", "y"), (0.0, 0.0))
    check_metres(far - (-7500.0, 4_864_700.0), "a.csv", ("x", "y"), (-7500.0, 4_864_700.0))
