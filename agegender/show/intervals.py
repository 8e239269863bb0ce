"""Numbers for readers: each is shown with the digits that its interval supports."""

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Interval:
    """A measured number and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Mapping[str, float] | None, name: str = "value") -> "Interval | None":
        """Read `name` with its bounds: keys low and high, or name_low and name_high.

        None where one of the three is missing.
        """
        prefix = "" if name == "value" else f"{name}_"
        keys = (name, f"{prefix}low", f"{prefix}high")
        if not found or not all(key in found for key in keys):
            return None
        return cls(*(float(found[key]) for key in keys))


def decimals(interval: Interval, scale: float = 1.0) -> int:
    """Return the decimals that an interval supports: one digit of its half width, two after a 1.

    A width of 0 supports all digits that anybody reads: 2 decimals.
    """
    half_width = scale * (interval.high - interval.low) / 2
    if not half_width > 0:
        return 2
    exponent = math.floor(math.log10(half_width))
    return max(0, (half_width < 2 * 10**exponent) - exponent)


def digits(number: Interval | float | None) -> str:
    """Return "5.6 [5.3, 6.0]"; without an interval three digits; "not measured" for None."""
    if number is None:
        return "not measured"
    if not isinstance(number, Interval):
        whole = isinstance(number, int) or abs(number) >= 1000
        return f"{number:,.0f}" if whole else f"{number:#.3g}".rstrip(".")
    places = decimals(number)
    value, low, high = (f"{x:z.{places}f}" for x in (number.value, number.low, number.high))
    return f"{value} [{low}, {high}]"


def percent(share: Interval | float | None) -> str:
    """Return a share as "92.1 % [90.4, 93.7]"; without an interval as a whole number."""
    if share is None:
        return "not measured"
    if not isinstance(share, Interval):
        return f"{share:.0%}".replace("%", " %")
    places = decimals(share, 100)
    value, low, high = (f"{100 * x:z.{places}f}" for x in (share.value, share.low, share.high))
    return f"{value} % [{low}, {high}]"


def probability(p: float) -> str:
    """Return "p = 0.03", or that p lies beyond 0.001 or 0.99."""
    if p < 0.001:
        return "p < 0.001"
    return "p > 0.99" if p > 0.99 else f"p = {p:.2g}"
