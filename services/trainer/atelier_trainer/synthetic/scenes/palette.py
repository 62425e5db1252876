"""Named colours: the nine a caption may mention, and the fixed ones that parts of a drawing use."""

RGB = tuple[int, int, int]

NAMED: dict[str, RGB] = {
    "red": (216, 66, 58),
    "orange": (240, 146, 58),
    "yellow": (250, 208, 76),
    "green": (98, 166, 88),
    "blue": (72, 126, 204),
    "purple": (142, 96, 182),
    "pink": (243, 146, 176),
    "brown": (150, 102, 68),
    "white": (250, 248, 242),
    "grey": (150, 154, 164),
    "black": (66, 62, 70),
}
"""Colours of things, as captions call them."""

FIXED: dict[str, RGB] = {
    "ink": (74, 58, 56),
    "cream": (252, 240, 214),
    "skin": (248, 208, 172),
    "bark": (136, 94, 64),
    "leaf": (92, 158, 84),
    "glass": (188, 222, 238),
    "slate": (112, 104, 122),
    "denim": (82, 98, 150),
    "patch": (174, 112, 58),
    "water": (110, 164, 206),
    "gold": (248, 190, 60),
    "carrot": (238, 134, 48),
    "blush": (244, 160, 150),
    "snowcap": (250, 251, 253),
}
"""Colours of parts that stay the same whatever the thing's own colour is."""

TINTS: tuple[RGB, ...] = (
    (247, 239, 222),
    (228, 238, 244),
    (243, 230, 232),
    (232, 241, 226),
    (238, 233, 245),
)
"""Soft flat backgrounds of a plain scene."""


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Blend two colours; `share` 0 gives the first and 1 the second."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def shadowed(colour: RGB, share: float) -> RGB:
    """Move a colour towards a deeper shade of itself with some warm violet, as a painter shades, not towards black."""
    deep = (colour[0] ** 2 // 255, colour[1] ** 2 // 255, colour[2] ** 2 // 255)
    return mix(colour, mix(deep, (58, 40, 66), 0.4), share)


def lit(colour: RGB, share: float) -> RGB:
    """Move a colour towards warm white."""
    return mix(colour, (255, 250, 232), share)


def luminance(colour: RGB) -> float:
    """Brightness as seen by an eye, 0 (black) to 1 (white).

    Source: the luma weights of ITU-R BT.601.
    """
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255.0


def resolve(role: str, main: str) -> RGB:
    """Turn the fill role of a part into a colour.

    Args:
        role: "main", "dark" or "light" (shades of the thing's own colour), or a name in `FIXED` or `NAMED`.
        main: the thing's own colour, a name in `NAMED`.

    Raises:
        KeyError: the role or the colour has no entry in the palette.
    """
    if role == "main":
        return NAMED[main]
    if role == "dark":
        return shadowed(NAMED[main], 0.24)
    if role == "light":
        return lit(NAMED[main], 0.45)
    return FIXED[role] if role in FIXED else NAMED[role]
