"""Numbers as people read them; the template's filters."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
# decimal prefixes: FLOPs and parameters are counted in thousands, never in 1,024s
_SHORT_SCALE = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SI_SCALE = tuple((10.0 ** (24 - 3 * place), letter) for place, letter in enumerate("YZEPTGM"))


def loss(value: float) -> str:
    """A loss with three decimals, or three significant digits where that would say too little."""
    if not math.isfinite(value):
        return MISSING
    return score(value) if 0.1 <= abs(value) < 1000 or value == 0 else significant(value)


def score(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else MISSING


def interval(low: float, high: float) -> str:
    """Both ends with three decimals; in words where a minus sign would be taken for a dash."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{score(low)}{' to ' if low < 0 else '–'}{score(high)}"


def change(share: float) -> str:
    """A relative difference in percent, with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "−") if math.isfinite(share) else MISSING


def rough(value: float) -> str:
    """Two significant digits: what an uncertainty deserves."""
    return significant(value, digits=2)


def significant(value: float, digits: int = 3) -> str:
    """Some significant digits, and a power of ten where the number is very large or small."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -3 <= exponent < 5:
        return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")
    mantissa = value / 10.0**exponent
    power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa:.{digits - 1}f} × 10{power}".replace("-", "−")


def moved(least: float, most: float) -> str:
    """A move in doublings, of which maybe no more is known than that it lies between two."""
    if math.isnan(least):
        return MISSING
    if least == most:
        return f"{least:.2g}"
    if math.isinf(most):
        return f"≥ {least:.2g}" if least else "not seen"
    return f"{least:.2g}–{most:.2g}"


def percent(share: float) -> str:
    """A share of one as a percentage; never 0 or 100 unless it is exactly that."""
    if not math.isfinite(share):
        return MISSING
    if 0 < share < 0.005:
        return "< 1 %"
    if 0.995 <= share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %".replace("-", "−")


def unbroken(sentence: str) -> str:
    """``sentence`` with every per cent sign held to its number."""
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%")


def size(examples: float) -> str:
    """A number of training examples, short enough for an axis."""
    return f"{examples:,.0f}" if examples < 1e5 else short(examples)


def short(value: float) -> str:
    """A count with three significant digits: 890k, 1.24M, 7.2B."""
    return _prefixed(value, _SHORT_SCALE, "")


def flops(value: float) -> str:
    """Floating-point operations with an SI prefix."""
    return _prefixed(value, _SI_SCALE, "FLOP")


def _prefixed(value: float, scale: Sequence[tuple[float, str]], unit: str) -> str:
    if not math.isfinite(value):
        return MISSING
    space = " " if unit else ""
    for factor, letter in scale:
        if value >= factor:
            return f"{value / factor:.3g}{space}{letter}{unit}"
    return f"{value:.0f}{space}{unit}"


def memory(value: float) -> str:
    """Bytes in decimal megabytes or gigabytes."""
    if not math.isfinite(value):
        return MISSING
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def seconds(value: float) -> str:
    """A duration in the largest unit that keeps it above one."""
    if not math.isfinite(value):
        return MISSING
    for factor, unit in ((3600.0, "h"), (60.0, "min")):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.1f} s"


def shorten(name: str, width: int) -> str:
    """A name in at most ``width`` characters; both ends stay, for names differ at either."""
    if len(name) <= width:
        return name
    tail = 2 * (width - 1) // 5
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def without_owner(name: str) -> str:
    """``gpt2`` of ``openai-community/gpt2``; a path keeps its last part."""
    return name.rstrip("/").rsplit("/", 1)[-1]
