"""House, boat, car, umbrella and balloon as parts."""

import numpy as np

from atelier_trainer.synthetic.scenes.geometry import arc, box, ellipse, points, smooth
from atelier_trainer.synthetic.scenes.scene import Thing
from atelier_trainer.synthetic.scenes.shapes.parts import Part, Proportions, dot, filled, line


def house(thing: Thing, vary: Proportions) -> list[Part]:
    """A gabled house with a door, a chimney and two crossed windows."""
    wide, eaves = vary.near(0.37, 0.1), vary.near(-0.06, 0.6)
    roof = {"red": "slate", "pink": "slate", "white": "red", "yellow": "brown", "blue": "brown"}[thing.colour]
    flue = vary.near(0.22, 0.15)
    door, door_top = vary.shift(0.04), vary.near(0.18, 0.15)
    parts = [
        filled(box(flue - 0.055, -0.45, flue + 0.055, -0.1), "patch"),
        filled(box(-wide, eaves, wide, 0.47), "main"),
        filled(points((-wide - 0.1, eaves + 0.015), (vary.shift(0.05), -0.48), (wide + 0.1, eaves + 0.015)), roof, "down", 1.2),
        filled(box(door - 0.085, door_top, door + 0.085, 0.47), "bark"),
        dot(ellipse(door + 0.05, 0.34, 0.017, 0.017), "gold"),
    ]
    for side in (-1, 1):
        x, y, r = side * wide * 0.62, eaves + 0.17, vary.near(0.075, 0.1)
        parts.append(filled(box(x - r, y - r, x + r, y + r), "glass", "down"))
        parts += [line(points((x - r, y), (x + r, y)), 0.8), line(points((x, y - r), (x, y + r)), 0.8)]
    if vary.chance(0.6):
        parts.append(filled(ellipse(0, -0.23, 0.065, 0.065, n=24), "glass", "down"))
    return parts


def boat(thing: Thing, vary: Proportions) -> list[Part]:
    """A sailing boat: curved hull, two sails, a flag, and ripples below."""
    deck, mast, bow = vary.near(0.19, 0.1), vary.shift(0.04), vary.near(0.47, 0.04)
    keel = 0.39
    hull = np.concatenate(
        [
            points((-bow, deck), (bow, deck)),
            smooth(
                [
                    (bow * 0.86, deck + 0.11),
                    (bow * 0.62, keel),
                    (0.0, keel + 0.01),
                    (-bow * 0.62, keel),
                    (-bow * 0.86, deck + 0.11),
                ],
                closed=False,
            ),
        ]
    )
    high = vary.near(-0.42, 0.05)
    main_sail = np.concatenate(
        [
            points((mast + 0.025, high + 0.04)),
            smooth([(mast + 0.23, -0.1), (bow * 0.84, deck - 0.06)], closed=False),
            points((mast + 0.025, deck - 0.06)),
        ]
    )
    fore = vary.near(-0.33, 0.12)
    parts = [
        filled(box(mast - 0.016, high, mast + 0.016, deck), "bark", "flat", 0.6),
        filled(
            points((mast, high), (mast + 0.13, high - 0.03), (mast, high - 0.07)),
            "red" if thing.colour != "red" else "blue",
            "flat",
            0.7,
        ),
        filled(main_sail, "cream", "down"),
        filled(points((mast - 0.025, high + 0.12), (fore, deck - 0.06), (mast - 0.025, deck - 0.06)), "cream", "side"),
        filled(hull, "main", "down", 1.1),
        line(points((-bow * 0.9, deck + 0.075), (bow * 0.9, deck + 0.075)), 0.8),
    ]
    for y, x0, x1 in ((0.43, -0.47, 0.47), (0.48, -0.34, 0.38)):
        x = np.linspace(x0, x1, 24)
        parts.append(Part(np.stack([x, y + 0.018 * np.sin(x * 34 + vary.shift(2.0))], 1), False, "water", 1.4, "flat"))
    return parts


def car(thing: Thing, vary: Proportions) -> list[Part]:
    """A small car from the side with two windows and big wheels."""
    roof, start, end = vary.near(-0.25, 0.12), vary.near(-0.24, 0.12), vary.near(0.25, 0.12)
    belt, sill, wheel = -0.02, 0.2, vary.near(0.115, 0.07)
    body = smooth(
        [
            (-0.48, 0.03),
            (-0.4, -0.01),
            (start - 0.06, belt),
            (start + 0.07, roof + 0.02),
            (0.0, roof - 0.01),
            (end - 0.06, roof + 0.02),
            (end + 0.09, belt),
            (0.44, 0.01),
            (0.485, 0.1),
            (0.46, sill),
            (0.0, sill),
            (-0.46, sill),
            (-0.49, 0.12),
        ],
        per=5,
    )
    glass_top, middle = roof + 0.055, vary.shift(0.03)
    parts = [
        filled(body, "main", "down", 1.1),
        filled(
            points(
                (start + 0.02, belt + 0.005),
                (start + 0.1, glass_top),
                (middle - 0.02, glass_top),
                (middle - 0.02, belt + 0.005),
            ),
            "glass",
            "side",
        ),
        filled(
            points(
                (middle + 0.02, belt + 0.005), (middle + 0.02, glass_top), (end - 0.08, glass_top), (end + 0.015, belt + 0.005)
            ),
            "glass",
            "side",
        ),
        line(points((middle, belt + 0.02), (middle, sill - 0.01)), 0.7),
        line(points((middle + 0.05, 0.06), (middle + 0.11, 0.06)), 1.0),
        filled(ellipse(-0.45, 0.075, 0.033, 0.04), "gold", "flat", 0.7),
    ]
    for x in (-0.27, 0.28):
        parts.append(filled(ellipse(x, sill + 0.015, wheel, wheel), "black", "flat"))
        parts.append(filled(ellipse(x, sill + 0.015, wheel * 0.46, wheel * 0.46, n=20), "white", "flat", 0.7))
    return parts


def umbrella(thing: Thing, vary: Proportions) -> list[Part]:
    """An open umbrella: a dome of panels with a scalloped rim, and a hooked handle."""
    wide, tall, rim = vary.near(0.47, 0.04), vary.near(0.43, 0.07), 0.03
    panels = (5, 7)[vary.whole(0, 1)]  # an odd number begins and ends alike
    edges = np.linspace(-1.0, 1.0, panels + 1)
    hook = vary.near(0.08, 0.15)
    handle = np.concatenate([points((0.0, -0.2), (0.0, 0.39)), arc(hook, 0.39, hook, 0.09, (np.pi, 0.1), n=12)])
    parts = [Part(handle, False, "bark", 3.4, "flat"), line(points((0, rim - tall), (0, -0.49)), 2.0)]
    for k in range(panels):
        left, right = edges[k], edges[k + 1]
        angle = np.linspace(0.0, np.pi / 2, 12)
        down = np.stack([right * wide * np.sin(angle), rim - tall * np.cos(angle)], axis=1)
        up = np.stack([left * wide * np.sin(angle), rim - tall * np.cos(angle)], axis=1)[::-1]
        scallop = arc((left + right) / 2 * wide, rim, (right - left) / 2 * wide, 0.06, (0.0, -np.pi), n=10)[1:-1]
        parts.append(filled(np.concatenate([down, scallop, up[:-1]]), "main" if k % 2 == 0 else "light", "down"))
    return parts


def balloon(thing: Thing, vary: Proportions) -> list[Part]:
    """A hot-air balloon with coloured stripes and a basket."""
    wide, neck = vary.near(0.35, 0.08), vary.near(0.1, 0.15)
    top, waist = -0.49, 0.22
    half = smooth(
        [(0.0, top), (wide * 0.62, top + 0.06), (wide, -0.2), (wide * 0.82, 0.02), (neck * 1.5, 0.17), (neck, waist)],
        closed=False,
    )
    basket, drop = vary.near(0.075, 0.15), vary.near(0.36, 0.03)
    parts = [line(points((s * neck * 0.9, waist), (s * basket * 0.9, drop)), 0.8) for s in (-1, 1)]
    parts.append(filled(points((-basket, drop), (basket, drop), (basket * 0.8, 0.49), (-basket * 0.8, 0.49)), "patch"))
    parts.append(line(points((-basket * 0.9, drop + 0.05), (basket * 0.9, drop + 0.05)), 0.7))
    stripes = 5
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, stripes + 1))
    stripe_fill = "gold" if vary.chance(0.4) and thing.colour != "orange" else "cream"
    outline = np.concatenate([half, (half * (-1.0, 1.0))[::-1][:-1]])
    parts.append(filled(outline, "main", "round", 1.1))
    for k in (1, 3):
        panel = np.concatenate([half * (edges[k + 1], 1.0), (half * (edges[k], 1.0))[::-1][:-1]])
        parts.append(filled(panel, stripe_fill, "down", 0.6))
    return parts


MAKERS = {"house": house, "boat": boat, "car": car, "umbrella": umbrella, "balloon": balloon}
