"""Person and snowman as parts."""

import numpy as np

from atelier_trainer.synthetic.scenes.geometry import arc, box, ellipse, points, smooth
from atelier_trainer.synthetic.scenes.scene import Thing
from atelier_trainer.synthetic.scenes.shapes.parts import Part, Proportions, dot, filled, line


def person(thing: Thing, vary: Proportions) -> list[Part]:
    """A child standing with a coloured shirt and arms a little away from the body."""
    head, wide = vary.near(0.15, 0.07), vary.near(0.14, 0.12)
    hy = -0.32
    lift = vary.near(0.12, 0.6)
    long_hair = vary.chance(0.5)
    hair = ("bark", "black", "patch")[vary.whole(0, 2)]
    legs = ("denim", "slate", "bark")[vary.whole(0, 2)]
    parts: list[Part] = []
    if long_hair:
        parts.append(
            filled(
                smooth(
                    [
                        (-head * 1.1, hy - 0.05),
                        (0, hy - head * 1.15),
                        (head * 1.1, hy - 0.05),
                        (head * 1.25, hy + head * 1.2),
                        (0, hy + head * 0.9),
                        (-head * 1.25, hy + head * 1.2),
                    ]
                ),
                hair,
                "flat",
            )
        )
    for side in (-1, 1):
        hand_x, hand_y = side * (wide + 0.14), 0.16 - lift
        parts.append(filled(ellipse(hand_x, hand_y, 0.045, 0.045), "skin", "flat"))
        parts.append(
            filled(
                points(
                    (side * wide * 0.6, -0.16),
                    (side * wide * 0.95, -0.15),
                    (hand_x + side * 0.03, hand_y - 0.035),
                    (hand_x - side * 0.05, hand_y + 0.01),
                    (side * wide * 0.7, 0.0),
                ),
                "dark",
            )
        )
        parts.append(
            filled(
                points((side * 0.015, 0.14), (side * wide * 1.1, 0.14), (side * wide * 0.95, 0.44), (side * 0.035, 0.44)), legs
            )
        )
        parts.append(
            filled(
                smooth(
                    [
                        (side * 0.02, 0.43),
                        (side * wide * 0.8, 0.42),
                        (side * (wide + 0.06), 0.47),
                        (side * (wide + 0.05), 0.495),
                        (side * 0.02, 0.495),
                    ]
                ),
                "ink",
                "flat",
                0.6,
            )
        )
    parts.append(
        filled(
            smooth(
                [
                    (-wide * 0.55, -0.18),
                    (wide * 0.55, -0.18),
                    (wide, -0.11),
                    (wide * 1.05, 0.0),
                    (wide * 1.18, 0.17),
                    (0, 0.19),
                    (-wide * 1.18, 0.17),
                    (-wide * 1.05, 0.0),
                    (-wide, -0.11),
                ]
            ),
            "main",
        )
    )
    parts.append(filled(ellipse(0, hy, head * 0.95, head), "skin", "round"))
    fringe = np.concatenate(
        [
            arc(0, hy - 0.01, head * 1.02, head * 1.04, (np.pi * 1.02, np.pi * 1.98), n=18),
            smooth(
                [
                    (head * 0.85, hy - head * 0.35),
                    (head * 0.2, hy - head * 0.55),
                    (-head * 0.4, hy - head * 0.3),
                    (-head * 0.9, hy - head * 0.15),
                ],
                closed=False,
            ),
        ]
    )
    parts.append(filled(fringe, hair, "flat"))
    for side in (-1, 1):
        parts.append(dot(ellipse(side * 0.055, hy + 0.015, 0.017, 0.021)))
        parts.append(dot(ellipse(side * 0.085, hy + 0.06, 0.025, 0.017), "blush"))
    parts.append(line(arc(0, hy + 0.045, 0.045, 0.04, (0.35, 2.79), n=9), 0.8))
    return parts


def snowman(thing: Thing, vary: Proportions) -> list[Part]:
    """Two balls of snow with hat, carrot, scarf, buttons and stick arms."""
    big, head = vary.near(0.27, 0.06), vary.near(0.165, 0.08)
    by = 0.49 - big
    hy = by - big - head * 0.62
    scarf = ("red", "green", "blue")[vary.whole(0, 2)]
    rise = vary.near(0.13, 0.5)
    parts: list[Part] = []
    for side in (-1, 1):
        end = (side * 0.47, by - 0.08 - rise)
        parts.append(line(points((side * big * 0.7, by - 0.06), end), 1.8))
        parts.append(line(points((side * 0.41, by - 0.07 - rise * 0.75), (side * 0.45, by - rise * 0.6)), 1.3))
    parts += [filled(ellipse(0, by, big, big), "main", "round"), filled(ellipse(0, hy, head, head), "main", "round")]
    parts.append(
        filled(
            smooth(
                [
                    (-head * 0.95, hy + head * 0.55),
                    (0, hy + head * 0.85),
                    (head * 0.95, hy + head * 0.55),
                    (head * 1.0, hy + head * 0.95),
                    (0, hy + head * 1.25),
                    (-head * 1.0, hy + head * 0.95),
                ]
            ),
            scarf,
            "side",
        )
    )
    parts.append(
        filled(
            points(
                (head * 0.3, hy + head),
                (head * 0.75, hy + head * 0.95),
                (head * 0.85, hy + head * 2.1),
                (head * 0.4, hy + head * 2.15),
            ),
            scarf,
            "side",
        )
    )
    brim = hy - head * 0.62
    parts.append(filled(box(-head * 0.68, max(brim - 0.17, -0.49), head * 0.68, brim), "black"))
    parts.append(filled(box(-head * 1.15, brim - 0.025, head * 1.15, brim + 0.025), "black"))
    parts += [dot(ellipse(s * head * 0.4, hy - head * 0.15, 0.02, 0.022)) for s in (-1, 1)]
    parts.append(
        filled(points((0.0, hy + 0.0), (-vary.near(0.17, 0.15), hy + 0.06), (0.005, hy + 0.06)), "carrot", "flat", 0.8)
    )
    parts += [dot(ellipse(0, by + dy, 0.024, 0.024)) for dy in (-0.08, 0.03, 0.14)]
    return parts


MAKERS = {"person": person, "snowman": snowman}
