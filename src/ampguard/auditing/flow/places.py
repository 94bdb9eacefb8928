"""Places as the paths spell them, "self.optimizers[0]": what one mentions, and what it is reached through."""


def owner_of(place: str) -> str:
    """Return what a place is reached through: "self" of "self.optimizer", "" of a plain name."""
    return place[: max(place.rfind("."), place.rfind("["), 0)]


def mentions(place: str, text: str) -> bool:
    """Whether a spelled expression mentions a place as a whole name: itself, or what is reached through it."""
    start = text.find(place)
    while start >= 0:
        end = start + len(place)
        if (start == 0 or not _name_char(text[start - 1])) and (end == len(text) or not _in_name(text[end])):
            return True
        start = text.find(place, start + 1)
    return False


def _name_char(char: str) -> bool:
    return _in_name(char) or char == "."


def _in_name(char: str) -> bool:
    return char.isalnum() or char == "_"
