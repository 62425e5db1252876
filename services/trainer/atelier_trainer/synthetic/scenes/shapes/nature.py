"""Tree, sun, flower, mountain, mushroom, star and apple as parts."""

import numpy as np

from atelier_trainer.synthetic.scenes.geometry import arc, ellipse, points, rotated, smooth
from atelier_trainer.synthetic.scenes.scene import Thing
from atelier_trainer.synthetic.scenes.shapes.parts import Part, Proportions, dot, filled, line


def _face(x: float, y: float, scale: float) -> list[Part]:
    """Two eyes, two cheeks and a smile."""
    parts = []
    for side in (-1, 1):
        parts.append(dot(ellipse(x + side * 0.09 * scale, y - 0.03 * scale, 0.024 * scale, 0.032 * scale)))
        parts.append(dot(ellipse(x + side * 0.14 * scale, y + 0.05 * scale, 0.035 * scale, 0.024 * scale), "blush"))
    return [*parts, line(arc(x, y + 0.03 * scale, 0.075 * scale, 0.07 * scale, (0.3, 2.84), n=10))]


def tree(thing: Thing, vary: Proportions) -> list[Part]:
    """A trunk with two boughs under a crown of rounded lobes."""
    thick, crown_x, crown_y = vary.near(0.065, 0.2), vary.near(0.37, 0.1), vary.near(0.31, 0.06)
    cy = -0.48 + crown_y * 1.08
    lobes = vary.whole(6, 9)
    angle = np.linspace(0, 2 * np.pi, lobes * 7, endpoint=False)
    bump = 0.93 + 0.14 * np.abs(np.sin(lobes * angle / 2 + vary.shift(1.0)))
    crown = np.stack([crown_x * bump * np.cos(angle), cy + crown_y * bump * np.sin(angle)], axis=1)
    trunk = smooth(
        [
            (-thick, 0.1),
            (thick, 0.1),
            (thick * 1.05, 0.35),
            (thick * 2.0, 0.485),
            (0, 0.47),
            (-thick * 2.0, 0.485),
            (-thick * 1.05, 0.35),
        ]
    )
    parts = [filled(trunk, "bark"), filled(crown, "main", "round")]
    for x, y, r in ((-0.15, -0.05, 0.1), (0.09, -0.13, 0.11), (0.17, 0.1, 0.09), (-0.05, 0.13, 0.09)):
        start = vary.shift(0.3)
        parts.append(line(arc(x + vary.shift(0.03), cy + y, r, r * 0.7, (0.3 + start, 2.4 + start), n=9), 0.8))
    if vary.chance(0.5):
        parts.append(line(smooth([(0, 0.34), (thick * 0.2, 0.26), (-thick * 0.1, 0.2)], closed=False), 0.7))
    return parts


def sun(thing: Thing, vary: Proportions) -> list[Part]:
    """A smiling disc in a ring of pointed rays."""
    radius, rays, turn = vary.near(0.25, 0.07), vary.whole(9, 13), vary.shift(0.3)
    parts: list[Part] = []
    for k in range(rays):
        reach = 0.49 if k % 2 == 0 else vary.near(0.44, 0.04)
        wide = 0.62 * np.pi * radius / rays
        ray = points((-wide, -radius * 1.12), (0.0, -reach), (wide, -radius * 1.12))
        parts.append(
            filled(
                rotated(ray, 0, 0, turn + 2 * np.pi * k / rays), "gold" if thing.colour == "orange" else "carrot", "flat", 0.8
            )
        )
    return [*parts, filled(ellipse(0, 0, radius, radius, n=48), "main", "round"), *_face(0, 0, radius / 0.27)]


def flower(thing: Thing, vary: Proportions) -> list[Part]:
    """A ring of petals round a golden middle, on a stem with two leaves."""
    petals, long, lean = vary.whole(6, 8), vary.near(0.15, 0.07), vary.shift(0.04)
    cy, middle, turn = -0.19, vary.near(0.095, 0.1), vary.shift(0.4)
    stem = smooth(
        [
            (lean - 0.022, cy),
            (lean * 0.2 - 0.022, 0.2),
            (-0.025, 0.49),
            (0.02, 0.49),
            (lean * 0.2 + 0.022, 0.2),
            (lean + 0.022, cy),
        ]
    )
    parts = [filled(stem, "leaf")]
    for side in (-1, 1):
        base = vary.near(0.36, 0.1)
        parts.append(
            filled(
                smooth(
                    [
                        (0, base),
                        (side * 0.11, base - 0.13),
                        (side * vary.near(0.29, 0.1), base - 0.17),
                        (side * 0.2, base - 0.02),
                    ]
                ),
                "leaf",
            )
        )
        parts.append(
            line(smooth([(side * 0.02, base - 0.01), (side * 0.12, base - 0.08), (side * 0.2, base - 0.12)], closed=False), 0.6)
        )
    for k in range(petals):
        angle = turn + 2 * np.pi * k / petals
        reach = middle + long * 0.72
        petal = ellipse(lean + reach * np.cos(angle), cy + reach * np.sin(angle), long, 1.95 * reach / petals, angle, n=22)
        parts.append(filled(petal, "main", "round"))
    return [*parts, filled(ellipse(lean, cy, middle, middle), "gold", "round")]


def mountain(thing: Thing, vary: Proportions) -> list[Part]:
    """A tall peak with a snow cap and a shaded flank, a lower one behind it."""
    peak, base, top = vary.shift(0.06) - 0.08, 0.36, -0.42
    low_x, low_y = vary.near(0.27, 0.1), vary.near(-0.08, 0.4)

    def cap(x: float, y: float, left: float, right: float, depth: float) -> Part:
        slope_l, slope_r = (left - x) / (base - y), (right - x) / (base - y)
        edge = [
            (x + slope_l * depth, y + depth),
            (x + slope_l * depth * 0.45, y + depth * 0.72),
            (x + slope_l * depth * 0.2, y + depth * 1.18),
            (x + slope_r * depth * 0.25, y + depth * 0.7),
            (x + slope_r * depth * 0.6, y + depth * 1.15),
            (x + slope_r * depth, y + depth * 0.95),
        ]
        return filled(points((x, y), *reversed(edge)), "snowcap", "flat")

    left, right = -0.49, peak + vary.near(0.43, 0.06)
    return [
        filled(points((low_x - 0.3, base), (low_x, low_y), (0.49, base)), "dark", "down"),
        cap(low_x, low_y, low_x - 0.3, 0.49, 0.11),
        filled(
            points(
                (left, base),
                (left * 0.55 + peak * 0.45 + vary.shift(0.015), 0.0),
                (peak, top),
                (right * 0.5 + peak * 0.5 + vary.shift(0.015), -0.03),
                (right, base),
            ),
            "main",
            "down",
        ),
        filled(
            points(
                (peak, top),
                (right * 0.5 + peak * 0.5, -0.03),
                (right, base),
                (peak + 0.1, base),
                (peak + 0.16, 0.12),
                (peak + 0.03, -0.04),
            ),
            "dark",
            "down",
            0.0,
        ),
        cap(peak, top, left, right, vary.near(0.25, 0.15)),
    ]


def mushroom(thing: Thing, vary: Proportions) -> list[Part]:
    """A spotted cap on a pale stem."""
    wide, tall, stem = vary.near(0.44, 0.08), vary.near(0.42, 0.1), vary.near(0.11, 0.15)
    rim = 0.06
    foot = smooth(
        [
            (-stem, rim - 0.06),
            (stem, rim - 0.06),
            (stem * 0.95, 0.25),
            (stem * 1.35, 0.45),
            (0, 0.49),
            (-stem * 1.35, 0.45),
            (-stem * 0.95, 0.25),
        ]
    )
    cap = np.concatenate(
        [arc(0, rim, wide, tall, (np.pi, 2 * np.pi), n=24), arc(0, rim, wide, 0.085, (0.0, np.pi), n=14)[1:-1]]
    )
    parts = [filled(foot, "cream"), filled(cap, "main", "round")]
    for x, y, r in (
        (-0.02, -0.52, 0.19),
        (-0.56, -0.28, 0.16),
        (0.5, -0.36, 0.17),
        (-0.2, -0.02, 0.13),
        (0.26, 0.0, 0.1),
        (0.78, -0.08, 0.1),
    ):
        size = vary.near(r, 0.2) * 0.42
        parts.append(
            filled(ellipse(x * wide + vary.shift(0.015), rim + y * tall, size, size * 0.85, n=20), "cream", "flat", 0.6)
        )
    return parts


def star(thing: Thing, vary: Proportions) -> list[Part]:
    """Five rounded points and a smile."""
    inner, turn = vary.near(0.235, 0.07), vary.shift(0.12)
    corners = []
    for k in range(10):
        reach, angle = (0.49 if k % 2 == 0 else inner), turn - np.pi / 2 + np.pi * k / 5
        corners.append((reach * np.cos(angle), reach * np.sin(angle) + 0.03))
    return [filled(points(*corners), "main", "round", 1.2), *_face(0, 0.04, vary.near(0.85, 0.08))]


def apple(thing: Thing, vary: Proportions) -> list[Part]:
    """A round fruit, dented above and below, with stem and leaf."""
    wide, low = vary.near(0.41, 0.07), vary.near(0.46, 0.05)
    body = smooth(
        [
            (0, -0.2),
            (wide * 0.45, -0.3),
            (wide * 0.95, -0.17),
            (wide * 1.0, 0.1),
            (wide * 0.72, 0.37),
            (wide * 0.3, low),
            (0, low - 0.045),
            (-wide * 0.3, low),
            (-wide * 0.72, 0.37),
            (-wide * 1.0, 0.1),
            (-wide * 0.95, -0.17),
            (-wide * 0.45, -0.3),
        ]
    )
    lean = vary.near(0.05, 0.6)
    leaf = smooth([(0.02, -0.3), (0.1, -0.43), (vary.near(0.28, 0.12), -0.46), (0.2, -0.33)])
    return [
        filled(body, "main", "round"),
        line(arc(0, -0.255, 0.12, 0.06, (0.2, 2.94), n=12), 0.8),
        filled(points((-0.022, -0.2), (lean - 0.03, -0.46), (lean + 0.03, -0.48), (0.025, -0.2)), "bark"),
        filled(leaf, "leaf"),
        line(points((0.05, -0.32), (0.2, -0.42)), 0.6),
        filled(ellipse(-wide * 0.55, -0.08, 0.055, 0.1, 0.35, n=20), "light", "flat", 0.0),
    ]


MAKERS = {
    "tree": tree,
    "sun": sun,
    "flower": flower,
    "mountain": mountain,
    "mushroom": mushroom,
    "star": star,
    "apple": apple,
}
