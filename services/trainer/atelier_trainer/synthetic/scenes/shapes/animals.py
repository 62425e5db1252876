"""Fish, cat, bird and giraffe as parts; all face left unless flipped."""

import numpy as np

from atelier_trainer.synthetic.scenes.geometry import arc, ellipse, points, smooth
from atelier_trainer.synthetic.scenes.scene import Thing
from atelier_trainer.synthetic.scenes.shapes.parts import Part, Proportions, dot, filled, line


def fish(thing: Thing, vary: Proportions) -> list[Part]:
    """An almond body with two stripes, a forked tail, fins and a round eye."""
    height, end = vary.near(0.25, 0.14), vary.near(0.24, 0.08)
    start = -0.48

    def half(x: np.ndarray) -> np.ndarray:
        t = np.clip((x - start) / (end - start), 0.0, 1.0)
        return height * np.sin(np.pi * t**0.8) ** 0.8 + 0.05 * t

    x = np.linspace(start, end, 26)
    body = np.concatenate([np.stack([x, -half(x)], 1), np.stack([x, half(x)], 1)[::-1]])
    spread = vary.near(0.24, 0.15)
    tail = smooth(
        [
            (end - 0.04, 0.0),
            (end + 0.12, -spread),
            (0.49, -spread * 1.05),
            (0.41, 0.0),
            (0.49, spread * 1.05),
            (end + 0.12, spread),
        ]
    )
    top = smooth([(-0.2, -height * 0.85), (-0.06, -height - 0.13), (0.1, -height - 0.08), (0.13, -height * 0.55)])
    below = smooth([(-0.1, height * 0.85), (0.02, height + 0.11), (0.1, height + 0.07), (0.09, height * 0.6)])
    parts = [filled(tail, "dark"), filled(top, "dark"), filled(below, "dark"), filled(body, "main", "round")]
    for left in (vary.near(-0.13, 0.15), vary.near(0.05, 0.3)):
        across = np.linspace(left, left + 0.085, 6)
        stripe = np.concatenate([np.stack([across, -half(across) * 0.95], 1), np.stack([across, half(across) * 0.95], 1)[::-1]])
        parts.append(filled(stripe, "light", "down", 0.0))
    parts += [
        filled(ellipse(-0.31, -0.06, 0.058, 0.058), "white", "flat", 0.8),
        dot(ellipse(-0.32, -0.055, 0.03, 0.03)),
        line(arc(-0.45, 0.05, 0.08, 0.06, (0.2, 1.4), n=8)),
        line(smooth([(-0.04, 0.02), (0.03, 0.06), (-0.03, 0.11)], closed=False)),
    ]
    return parts


def cat(thing: Thing, vary: Proportions) -> list[Part]:
    """A sitting cat seen from the front, its tail curled at one side."""
    wide, head = vary.near(0.22, 0.14), vary.near(0.225, 0.08)
    hx, hy = vary.shift(0.03) - 0.05, -0.2
    ear = vary.near(0.17, 0.15)
    curl = smooth(
        [
            (0.06, 0.43),
            (0.3, 0.46),
            (0.44, 0.32),
            (0.38, 0.12),
            (0.45, -0.02),
            (0.38, -0.04),
            (0.29, 0.1),
            (0.33, 0.28),
            (0.26, 0.35),
            (0.1, 0.34),
        ]
    )
    body = smooth(
        [
            (hx, -0.08),
            (hx + wide * 0.75, 0.08),
            (hx + wide * 1.1, 0.36),
            (hx + wide * 0.8, 0.48),
            (hx - wide * 0.8, 0.48),
            (hx - wide * 1.1, 0.36),
            (hx - wide * 0.75, 0.08),
        ]
    )
    parts = [filled(curl, "dark"), filled(body, "main", "round")]
    parts.append(filled(ellipse(hx, 0.22, wide * 0.52, 0.19), "light", "flat", 0.0))
    for side in (-1, 1):
        tip = (hx + side * head * 0.86, hy - head * 0.75 - ear)
        parts.append(
            filled(points((hx + side * head * 1.0, hy - head * 0.25), tip, (hx + side * head * 0.2, hy - head * 0.8)), "main")
        )
        parts.append(
            dot(
                points(
                    (hx + side * head * 0.85, hy - head * 0.5),
                    (tip[0] * 0.93 + hx * 0.07, tip[1] + 0.06),
                    (hx + side * head * 0.42, hy - head * 0.72),
                ),
                "blush",
            )
        )
    parts.append(filled(ellipse(hx, hy, head * 1.12, head * 0.94), "main", "round"))
    for side in (-1, 1):
        parts.append(filled(ellipse(hx + side * 0.1, hy - 0.03, 0.048, 0.056), "gold", "flat", 0.7))
        parts.append(dot(ellipse(hx + side * 0.1, hy - 0.03, 0.02, 0.046)))
    parts.append(filled(ellipse(hx, hy + 0.095, 0.085, 0.055), "cream", "flat", 0.0))
    parts.append(dot(points((hx - 0.034, hy + 0.045), (hx + 0.034, hy + 0.045), (hx, hy + 0.082)), "blush"))
    parts.append(
        line(
            np.concatenate(
                [
                    arc(hx - 0.035, hy + 0.085, 0.035, 0.04, (2.8, 0.0), n=7),
                    arc(hx + 0.035, hy + 0.085, 0.035, 0.04, (3.14, 0.3), n=7),
                ]
            ),
            0.7,
        )
    )
    for side in (-1, 1):
        for k in (-1, 0, 1):
            parts.append(
                line(points((hx + side * 0.11, hy + 0.085 + k * 0.014), (hx + side * 0.36, hy + 0.085 + k * 0.06)), 0.6)
            )
        parts.append(filled(ellipse(hx + side * wide * 0.42, 0.455, 0.085, 0.045), "light", "flat", 0.8))
    return parts


def bird(thing: Thing, vary: Proportions) -> list[Part]:
    """A plump bird from the side: beak, folded wing, tail and two thin legs."""
    plump, head = vary.near(0.225, 0.1), vary.near(0.155, 0.08)
    hx, hy = -0.21, vary.near(-0.2, 0.12)
    rise = vary.shift(0.05)
    tail = smooth(
        [(0.16, 0.0), (0.46, -0.17 + rise), (0.49, -0.09 + rise), (0.44, -0.02 + rise), (0.47, 0.05 + rise), (0.2, 0.15)]
    )
    parts = [filled(points((hx - head * 0.8, hy - 0.06), (-0.49, hy + 0.02), (hx - head * 0.8, hy + 0.075)), "gold", "down")]
    for foot in (-0.05, 0.09):
        parts.append(line(points((foot, 0.22), (foot - 0.01, 0.45), (foot - 0.08, 0.46)), 1.1))
        parts.append(line(points((foot - 0.01, 0.45), (foot + 0.06, 0.46)), 1.1))
    parts.append(filled(tail, "dark"))
    parts.append(
        filled(
            smooth(
                [
                    (hx - head, hy),
                    (hx - head * 0.55, hy - head * 0.85),
                    (hx + head * 0.45, hy - head * 0.85),
                    (hx + head * 1.1, hy + 0.03),
                    (0.12, -0.07),
                    (0.24, 0.08),
                    (0.13, 0.07 + plump),
                    (-0.08, 0.1 + plump),
                    (-0.28, 0.16),
                    (hx - head * 1.1, 0.0),
                ]
            ),
            "main",
            "round",
        )
    )
    parts.append(
        filled(
            smooth([(hx - head * 0.75, 0.02), (-0.17, 0.02), (-0.05, 0.19), (-0.04, 0.07 + plump), (-0.2, 0.2)]),
            "cream",
            "flat",
            0.0,
        )
    )
    wing = vary.near(0.3, 0.1)
    parts.append(
        filled(
            smooth([(-0.1, -0.03), (0.02, -0.1), (0.16, -0.05), (wing + 0.03, 0.13), (0.14, 0.17), (0.0, 0.13)]), "dark", "down"
        )
    )
    parts.append(line(smooth([(0.02, 0.03), (0.12, 0.04), (0.22, 0.1)], closed=False), 0.7))
    parts += [
        filled(ellipse(hx - 0.025, hy - 0.02, 0.04, 0.04), "white", "flat", 0.7),
        dot(ellipse(hx - 0.032, hy - 0.018, 0.024, 0.024)),
    ]
    return parts


def giraffe(thing: Thing, vary: Proportions) -> list[Part]:
    """A giraffe from the side: long slanted neck, spotted coat, little horns."""
    hx, hy = vary.near(-0.23, 0.12), -0.38
    low, back = vary.near(0.19, 0.08), vary.near(0.33, 0.05)
    parts: list[Part] = [
        line(smooth([(back - 0.03, 0.07), (back + 0.06, 0.13), (back + 0.06, 0.26)], closed=False), 1.2),
        dot(ellipse(back + 0.06, 0.28, 0.028, 0.045), "bark"),
    ]
    for x, tone in ((-0.02, "dark"), (back - 0.12, "dark"), (-0.1, "main"), (back - 0.04, "main")):
        parts.append(
            filled(points((x - 0.042, low - 0.05), (x + 0.042, low - 0.05), (x + 0.034, 0.485), (x - 0.034, 0.485)), tone)
        )
        parts.append(
            filled(points((x - 0.036, 0.445), (x + 0.036, 0.445), (x + 0.038, 0.49), (x - 0.038, 0.49)), "bark", "flat", 0.6)
        )
    for horn in (-0.01, 0.055):
        parts.append(line(points((hx + horn, hy), (hx + horn + 0.012, hy - 0.08)), 1.3))
        parts.append(dot(ellipse(hx + horn + 0.012, hy - 0.085, 0.022, 0.022), "bark"))
    parts.append(filled(smooth([(hx + 0.07, hy - 0.02), (hx + 0.17, hy - 0.07), (hx + 0.15, hy + 0.0)]), "dark"))
    snout = [
        (hx + 0.0, hy + 0.11),
        (hx - 0.06, hy + 0.085),
        (hx - 0.18, hy + 0.09),
        (hx - 0.185, hy + 0.02),
        (hx - 0.02, hy - 0.055),
        (hx + 0.08, hy - 0.04),
    ]
    nape = [(hx + 0.125, hy + 0.08), (hx + 0.17, -0.13), (0.05, 0.015)]
    rump = [
        (0.18, 0.02),
        (back - 0.03, 0.03),
        (back, 0.11),
        (back - 0.02, low),
        (0.1, low + 0.015),
        (-0.1, low),
        (-0.165, 0.1),
        (-0.15, -0.02),
    ]
    parts.append(filled(smooth([*snout, *nape, *rump, (hx + 0.03, -0.16)]), "main", "down"))
    parts.append(
        line(smooth([(hx + 0.09, hy - 0.01), (hx + 0.13, hy + 0.1), (hx + 0.175, -0.12), (0.03, 0.0)], closed=False), 1.8)
    )
    neck = [(hx + 0.065, hy + 0.1, 0.03), (hx + 0.085, hy + 0.2, 0.035), (hx + 0.1, hy + 0.31, 0.04), (-0.08, 0.03, 0.046)]
    trunk = [
        (0.04, 0.075, 0.046),
        (0.15, 0.075, 0.045),
        (back - 0.07, 0.085, 0.042),
        (-0.05, 0.14, 0.042),
        (0.08, 0.155, 0.036),
        (back - 0.12, 0.155, 0.036),
    ]
    for x, y, r in neck + trunk:
        turn, corners = vary.shift(1.0), vary.whole(5, 6)
        parts.append(
            dot(
                ellipse(x + vary.shift(0.008), y + vary.shift(0.008), vary.near(r), vary.near(r * 0.9), turn, n=corners),
                "patch",
            )
        )
    return [
        *parts,
        dot(ellipse(hx - 0.01, hy + 0.0, 0.021, 0.025)),
        dot(ellipse(hx - 0.16, hy + 0.045, 0.01, 0.012)),
        line(points((hx - 0.17, hy + 0.075), (hx - 0.09, hy + 0.065)), 0.6),
    ]


MAKERS = {"fish": fish, "cat": cat, "bird": bird, "giraffe": giraffe}
