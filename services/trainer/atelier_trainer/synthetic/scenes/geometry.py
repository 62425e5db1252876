"""Curves as points: every function returns float64 arrays of shape [n, 2], columns x and y.

Shapes live in unit coordinates, both axes from -0.5 to 0.5 with y growing downwards; nothing here depends on it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def points(*pairs: tuple[float, float]) -> Points:
    """Write down corner points."""
    return np.array(pairs, dtype=np.float64)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """The four corners of a rectangle, clockwise on screen."""
    return points((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def ellipse(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0, *, n: int = 36) -> Points:
    """A closed ellipse; `turn` rotates it, in radians, clockwise on screen."""
    return rotated(arc(cx, cy, rx, ry, (0.0, 2 * np.pi * (1 - 1 / n)), n=n), cx, cy, turn)


def arc(cx: float, cy: float, rx: float, ry: float, angles: tuple[float, float], *, n: int = 16) -> Points:
    """A piece of an ellipse between two angles in radians; 0 points right and pi/2 down."""
    angle = np.linspace(*angles, n)
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def rotated(curve: Points, cx: float, cy: float, turn: float) -> Points:
    """Rotate a curve about (cx, cy) by `turn` radians, clockwise on screen."""
    if turn == 0.0:
        return curve
    cos, sin = np.cos(turn), np.sin(turn)
    offset = curve - (cx, cy)
    return np.stack([offset[:, 0] * cos - offset[:, 1] * sin + cx, offset[:, 0] * sin + offset[:, 1] * cos + cy], axis=1)


def smooth(knots: Sequence[tuple[float, float]] | Points, closed: bool = True, per: int = 6) -> Points:
    """A rounded curve through `knots`, with `per` points for each span.

    Source: Catmull and Rom, "A class of local interpolating splines" (1974), uniform with tension 1/2.
    """
    p = np.asarray(knots, dtype=np.float64)
    if closed:
        before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
        here = p
    else:
        padded = np.concatenate([p[:1], p, p[-1:]])
        before, here, after, beyond = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(per) / per)[None, :, None]
    a, b, c, d = (k[:, None, :] for k in (before, here, after, beyond))
    spans = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = spans.reshape(-1, 2)  # [spans * per, 2]
    return curve if closed else np.concatenate([curve, p[-1:]])


def resampled(curve: Points, step: float, closed: bool) -> Points:
    """Points along a curve at about equal distances of `step`; a closed curve gets its first point again at the end."""
    path = np.concatenate([curve, curve[:1]]) if closed else curve
    leg = path[1:] - path[:-1]
    along = np.zeros(len(path))
    np.cumsum(np.hypot(leg[:, 0], leg[:, 1]), out=along[1:])
    n = max(2, math.ceil(along[-1] / step) + 1)
    at = np.arange(n) * (along[-1] / (n - 1))
    even = np.empty((n, 2))
    even[:, 0], even[:, 1] = np.interp(at, along, path[:, 0]), np.interp(at, along, path[:, 1])
    return even


def ribbon(path: Points, widths: NDArray[np.float64]) -> Points:
    """The outline of a stroke along an open path, as wide at each point as `widths` [n] says."""
    n = len(path)
    leg = path[1:] - path[:-1]
    tangent = np.empty_like(path)
    tangent[0], tangent[-1] = leg[0], leg[-1]
    tangent[1:-1] = leg[:-1] + leg[1:]
    half = widths / (2 * np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9))
    outline = np.empty((2 * n, 2))
    dx, dy = tangent[:, 1] * half, tangent[:, 0] * half
    outline[:n, 0], outline[:n, 1] = path[:, 0] - dx, path[:, 1] + dy
    outline[n:, 0], outline[n:, 1] = (path[:, 0] + dx)[::-1], (path[:, 1] - dy)[::-1]
    return outline


def inside_lines(polygon: Points, angle: float, spacing: float, phase: float) -> NDArray[np.float64]:
    """Parallel segments that fill a polygon, as hatching does.

    Args:
        polygon: closed, [n, 2].
        angle: direction of the segments in radians.
        spacing: distance between neighbouring segments.
        phase: 0 to 1, shifts the first segment by that share of the spacing.

    Returns:
        [segments, 2, 2]: for each segment its two ends, sorted across the direction.
    """
    turned = rotated(polygon, 0.0, 0.0, -angle)  # hatching is horizontal here
    x, y = turned[:, 0], turned[:, 1]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    level = np.arange(y.min() + spacing * (0.2 + 0.8 * phase), y.max(), spacing)[:, None]  # [levels, 1]
    crosses = (y <= level) != (y2 <= level)  # [levels, n]
    rise = np.where(y2 == y, 1.0, y2 - y)
    at = np.where(crosses, x + (level - y) / rise * (x2 - x), np.inf)
    # Every level meets the outline an even number of times; the missing crossings sort to the end.
    most = int(crosses.sum(axis=1).max(initial=0))
    pairs = np.sort(at, axis=1)[:, :most].reshape(len(level), most // 2, 2)
    real = np.isfinite(pairs[:, :, 0])
    ends = np.empty((int(real.sum()), 2, 2))
    ends[:, :, 0] = pairs[real]
    ends[:, :, 1] = np.broadcast_to(level, real.shape)[real][:, None]
    return rotated(ends.reshape(-1, 2), 0.0, 0.0, angle).reshape(-1, 2, 2)
