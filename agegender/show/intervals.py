"""Format numbers for readers: the digits that the interval supports, or three without one."""

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
        """Read `name` and its bounds: keys low and high, or name_low and name_high.

        None if one of the three is missing.
        """
        prefix = "" if name == "value" else f"{name}_"
        keys = (name, f"{prefix}low", f"{prefix}high")
        if not found or not all(key in found for key in keys):
            return None
        return cls(*(float(found[key]) for key in keys))

    def times(self, factor: float) -> "Interval":
        """Return the interval in another unit, such as a share in percent."""
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    @property
    def decimals(self) -> int:
        """Decimals to show: one digit of the half width, two if it starts with 1; 2 if it is 0."""
        half_width = (self.high - self.low) / 2
        if not half_width > 0:
            return 2
        exponent = math.floor(math.log10(half_width))
        return max(0, (half_width < 2 * 10**exponent) - exponent)


def digits(number: Interval | float | None, unit: str = "", sign: str = "") -> str:
    """Return "5.6 [5.3, 6.0]", with the unit after the value; "not measured" for None.

    sign: "+" also shows the sign of positive numbers, for differences.
    """
    if number is None:
        return "not measured"
    if isinstance(number, Interval):
        form = f"{sign}z.{number.decimals}f"
        # An end that rounds to 0 shows on which side of 0 it lies.
        end = f"{sign or 'z'}.{number.decimals}f"
        return f"{number.value:{form}}{unit} [{number.low:{end}}, {number.high:{end}}]"
    whole = isinstance(number, int) or abs(number) >= 1000
    return (f"{number:,.0f}" if whole else f"{number:#.3g}".rstrip(".")) + unit


def value(number: Interval) -> str:
    """Return a number without its interval, for tables that have no room for it."""
    return f"{number.value:z.{number.decimals}f}"


def percent(share: Interval | float | None) -> str:
    """Return a share as "92.1 % [90.4, 93.7]", or as "92.1 %" without an interval."""
    if isinstance(share, Interval):
        return digits(share.times(100), " %")
    return digits(None) if share is None else f"{100 * share:.3g} %"


def probability(p: float) -> str:
    """Return "p = 0.03", or "p < 0.001" or "p > 0.99" beyond these limits."""
    if p < 0.001:
        return "p < 0.001"
    return "p > 0.99" if p > 0.99 else f"p = {p:.2g}"
