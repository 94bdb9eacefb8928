"""Figures of a bench as people read them."""

from ampguard.reporting.words import NONE, number


def times(ratio: float | None) -> str:
    """Return 1.834 as "1.83x", 23.4 as "23.4x", 0.0431 as "0.0431x"; a dash for None."""
    if ratio is None:
        return NONE
    return f"{ratio:.2f}x" if 0.1 <= ratio < 10 else f"{number(float(f'{ratio:.3g}'))}x"


def faster(ratio: float | None) -> tuple[str, str]:
    """Return a ratio as (value, word): ("1.83x", "faster"), or ("23.2x", "slower")."""
    if ratio is None:
        return NONE, ""
    return (times(ratio), "faster") if ratio >= 1 or ratio <= 0 else (times(1 / ratio), "slower")


def signed(value: float, unit: str = "") -> str:
    """Return a difference with its sign: "+0.0011", "-0.3 %"; "0" of nothing."""
    return f"{float(f'{value:.2g}'):+g}{unit}" if value else f"0{unit}"


def span(ends: tuple[float, float] | None, unit: str = "") -> str:
    """Return the ends of an interval of differences; "" for None."""
    return "" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}{unit}"


def pct(share: float | None) -> str:
    """Return 0.107 as "10.7 %"; a dash for None."""
    return NONE if share is None else f"{number(round(100 * share, 1))} %"


def mib(value: float | None) -> str:
    """Return MiB in three significant digits; a dash for None."""
    return NONE if value is None else f"{number(float(f'{value:.3g}'))} MiB"


def plainly(word: str) -> str:
    """Return "not_measured" as "not measured"."""
    return word.replace("_", " ")
