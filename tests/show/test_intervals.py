"""Numbers for readers: no digit more than the interval supports, and none lost."""

import pytest

from agegender.show import intervals
from agegender.show.intervals import Interval


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (Interval(5.5912, 5.2401, 6.0), "5.6 [5.2, 6.0]"),
        (Interval(4.6911, 4.5612, 4.82), "4.69 [4.56, 4.82]"),
        (Interval(-0.0283, -0.575, 0.471), "0.0 [-0.6, 0.5]"),
        (Interval(17.13, 11.9, 22.4), "17 [12, 22]"),
        (Interval(130.2, 90, 170), "130 [90, 170]"),
        (Interval(0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
        (4.8, "4.80"),
        (0.9, "0.900"),
        (1002, "1,002"),
        (12345.6, "12,346"),
        (None, "not measured"),
    ],
)
def test_digits_are_those_that_the_interval_supports(number, shown):
    assert intervals.digits(number) == shown


def test_shares_are_shown_in_percent_by_the_same_rule():
    assert intervals.percent(Interval(0.92116, 0.9042, 0.9371)) == "92.1 % [90.4, 93.7]"
    assert intervals.percent(Interval(0.5, 0.3, 0.7)) == "50 % [30, 70]"
    shown = [intervals.percent(share) for share in (1.0, 0.9, 0.12345, 0.0031, 0.0, None)]
    assert shown == ["100 %", "90 %", "12.3 %", "0.31 %", "0 %", "not measured"]


def test_a_difference_shows_its_sign_and_a_value_alone_keeps_its_digits():
    difference = Interval(0.21, -0.3, 0.72)
    assert intervals.digits(difference, " years", "+") == "+0.2 years [-0.3, +0.7]"
    near = Interval(-0.074, -0.148, -0.001)
    assert intervals.digits(near, " years", "+") == "-0.07 years [-0.15, -0.00]"
    assert intervals.value(difference) == "0.2"
    assert intervals.digits(difference.times(100)) == "21 [-30, 72]"


def test_rounding_keeps_both_ends_apart_from_the_value():
    for exponent in range(-4, 4):
        for half_width in (1.01, 1.9, 2.1, 9.9):
            reach = half_width * 10.0**exponent
            number = Interval(0.5, 0.5 - reach, 0.5 + reach)
            places = number.decimals
            assert 10.0**-places <= reach or places == 0
            assert places == 0 or 10.0 ** (1 - places) > reach / 2


def test_a_p_is_never_shown_as_0_or_1():
    shown = [intervals.probability(p) for p in (0.0, 0.0004, 0.031, 0.5, 1.0)]
    assert shown == ["p < 0.001", "p < 0.001", "p = 0.031", "p = 0.5", "p > 0.99"]


def test_an_interval_is_read_from_either_kind_of_key_or_is_none():
    found = {"mae": 3.0, "mae_low": 2.0, "mae_high": 4.0}
    assert Interval.of(found, "mae") == Interval(3.0, 2.0, 4.0)
    assert Interval.of({"value": 3, "low": 2, "high": 4}) == Interval(3.0, 2.0, 4.0)
    assert Interval.of({"mae": 3.0}, "mae") is Interval.of(None) is None
