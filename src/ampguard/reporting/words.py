"""Numbers as people read them."""

import math

NONE = "-"
"""What stands where there is no value."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None) -> str:
    """Return a number in at most four significant digits, with thousands separated; a dash for None."""
    if value is None:
        return NONE
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}"
    if 1e-4 <= abs(value) < 1e7:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"


def tick(value: float, *, power_of: int | None = None) -> str:
    """Return a tick's label; power_of: written as 2¹⁶ where it is such a power."""
    if power_of == 2 and value > 0:
        return power_of_two(round(math.log2(value)))
    size = abs(value)
    if size and (size >= 1e6 or size < 1e-4):
        for unit, sign in ((1e6, "M"), (1e9, "G")):
            if unit <= size < 1000 * unit:
                return f"{value / unit:g}{sign}"
        return _scientific(value)
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}"


def power_of_two(exponent: int) -> str:
    """Return 2¹⁶ for 16."""
    return f"2{str(exponent).translate(_SUPERSCRIPT)}"


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return power if mantissa == "1" else f"{mantissa}·{power}"


def duration(seconds: float | None) -> str:
    """Return seconds as 9.6 s, 12 min 30 s or 3 h 20 min; a dash for None."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def count(number_of: int, singular: str) -> str:
    """Return "1 step", "7 steps"."""
    return f"{number_of:,} {singular}{'' if number_of == 1 else 's'}"
