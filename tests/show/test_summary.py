"""What the comparison of two models on the locked test is said to show."""

from agegender.show import summary


def pair(low, high, p):
    mae = {"value": (low + high) / 2, "low": low, "high": high}
    return {"mae": mae, "gender": {"only_a": 17, "only_b": 55, "p": p}}


def test_a_difference_is_clear_where_its_interval_leaves_out_zero():
    age, gender = summary.verdict("B", "A", pair(-0.9, -0.1, 0.2))
    assert "-0.5 [-0.9, -0.1] years, a clear difference" in age
    assert "17 faces right only in B, 55 only in A" in gender and "no clear difference" in gender
    age, gender = summary.verdict("B", "A", pair(-0.9, 0.1, 0.01))
    assert "no clear difference" in age
    assert "a clear difference" in gender
