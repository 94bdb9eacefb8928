"""SVG and HTML elements as text in which every value is escaped.

Charts are drawn here rather than by matplotlib: that is not part of the base install, its SVG spells out every glyph
as a path (hundreds of kB a figure), and its colours do not follow light and dark. Colours, dashes and widths are
classes, decided by the page's style sheet.
"""

from collections.abc import Iterable

from markupsafe import Markup, escape


def element(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """Return one element.

    Args:
        name: Its tag.
        children: Texts, which are escaped, and elements.
        attributes: By name, `_` for `-`; a trailing `_` is dropped (class_). None: left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    body = joined(children)
    return Markup(f"<{name}{given}>{body}</{name}>" if body else f"<{name}{given}/>")


def joined(parts: Iterable[str | Markup]) -> Markup:
    """Return texts and elements one after another."""
    return Markup("").join(parts)


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2):g}"


def path(points: Iterable[tuple[float, float]], *, stepped: bool = False) -> str:
    """Return path data through points in pixels; stepped: a value holds until the next one."""
    drawn: list[tuple[float, float]] = []
    for x, y in points:
        at = (round(x, 1), round(y, 1))
        if not drawn or drawn[-1] != at:
            drawn.append(at)
    first, *rest = drawn
    moves = [f"H{x:g}V{y:g}" if stepped else f"L{x:g} {y:g}" for x, y in rest]
    return f"M{first[0]:g} {first[1]:g}{''.join(moves)}"


def marker(style: int, x: float, y: float, size: float = 3.0) -> str:
    """Return path data of a marker: a circle, square, triangle, diamond, cross or plus, by `style`."""
    shapes = (
        f"M{-size} 0A{size} {size} 0 1 0 {size} 0A{size} {size} 0 1 0 {-size} 0Z",
        f"M{-size} {-size}H{size}V{size}H{-size}Z",
        f"M0 {-size * 1.2:g}L{size * 1.2:g} {size}L{-size * 1.2:g} {size}Z",
        f"M0 {-size * 1.4:g}L{size * 1.4:g} 0L0 {size * 1.4:g}L{-size * 1.4:g} 0Z",
    )
    return _moved(shapes[style % len(shapes)], x, y)


def _moved(data: str, x: float, y: float) -> str:
    """Return absolute path data moved by (x, y)."""
    out: list[str] = []
    for command in _commands(data):
        letter, numbers = command[0], [float(n) for n in command[1:].split()]
        if letter == "A":
            numbers[5:] = [numbers[5] + x, numbers[6] + y]
        elif letter == "H":
            numbers = [numbers[0] + x]
        elif letter == "V":
            numbers = [numbers[0] + y]
        elif letter in "ML":
            numbers = [numbers[0] + x, numbers[1] + y]
        out.append(letter + " ".join(f"{round(n, 1):g}" for n in numbers))
    return "".join(out)


def _commands(data: str) -> list[str]:
    found: list[str] = []
    for letter in data:
        if letter.isalpha():
            found.append(letter)
        else:
            found[-1] += letter
    return found
