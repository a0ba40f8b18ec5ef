"""Pictures drawn by the project: a stand-in for CIFAR-10 that needs no download.

Ten shapes on 32x32 pixels, with random place, size, turn and colours, on a shaded background with strokes that belong
to no class, and noise. A network learns them within minutes on a CPU; a linear model does not, because a shape is
lighter than its background as often as darker, so that no single pixel tells anything. Results on these pictures say
nothing about CIFAR-10. No shape is the mirror image of another, and all are mirrored at random: flipping a picture
left-right never changes its class.
"""

import cv2
import numpy as np

SIZE = 32  # pixels, height and width
STROKES = 4  # in a picture, half of them behind the shape, half in front of it
BITS = 4  # of a coordinate's fraction, as OpenCV takes them

TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
CIRCLE = np.stack([np.sin(TURN), np.cos(TURN)], axis=1)
SQUARE = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)])
ARM, QUARTER_TURN = [(-0.3, 0.3), (-0.3, 1), (0.3, 1)], np.array([(0, -1), (1, 0)])
CELLS = [(x, y) for x in (-3, -1, 1, 3) for y in (-3, -1, 1, 3) if (x + y) % 4 == 0]
# Outlines, as (right, up) in units of the shape's radius; what lies within two of them is a hole.
SHAPES = {
    "arrow": [np.array([(-1, 0.2), (0, 0.2), (0, 0.75), (1, 0), (0, -0.75), (0, -0.2), (-1, -0.2)])],
    "checkerboard": [0.23 * (SQUARE + cell) for cell in CELLS],
    "crescent": [np.concatenate([CIRCLE[:21], CIRCLE[20::-1] * (0.4, 1)]) - (0.6, 0)],
    "cross": [np.concatenate([ARM @ np.linalg.matrix_power(QUARTER_TURN, k) for k in range(4)])],
    "disc": [0.85 * CIRCLE],
    "heart": [np.stack([np.sin(TURN) ** 3, np.cos(TURN) - 0.35 * np.cos(2 * TURN) - 0.15 * np.cos(3 * TURN)], axis=1)],
    "ring": [0.95 * CIRCLE, 0.55 * CIRCLE],
    "square": [0.78 * SQUARE],
    "star": [CIRCLE[::4] * np.tile([1.1, 0.45], 5)[:, None]],
    "triangle": [np.array([(0, 1.1), (0.95, -0.55), (-0.95, -0.55)])],
}
CLASSES: tuple[str, ...] = tuple(SHAPES)


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` pictures; the same seed gives the same pictures, another seed gives others.

    Returns images, uint8 (count, 32, 32, 3) in RGB, and labels, int64 (count,), indices of CLASSES. Every ten pictures
    in a row hold each class once, in random order. Fewer pictures are the first ones of more pictures.
    """
    tens = np.tile(np.arange(len(SHAPES), dtype=np.int64), (-(-count // len(SHAPES)), 1))
    labels = np.random.default_rng(seed).permuted(tens, axis=1).reshape(-1)[:count]
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[i] = _picture(SHAPES[CLASSES[label]], np.random.default_rng((seed, i)))
    return images, labels


def _picture(outlines: list, rng: np.random.Generator) -> np.ndarray:
    def colour(level: float) -> np.ndarray:
        """A colour of this grey level, 0 to 255, and of random hue and saturation."""
        hue, strength = rng.uniform(0, 2 * np.pi), rng.uniform(20, 60)
        return np.clip(level + strength * np.cos(hue + np.arange(3) * 2 * np.pi / 3), 0, 255)

    def pixels(points: np.ndarray) -> np.ndarray:
        return np.rint(points * 2**BITS).astype(np.int32)

    # The background: one colour, brightened towards a random side.
    ground, towards, slope = rng.uniform(50, 205), rng.uniform(0, 2 * np.pi), rng.uniform(0, 1.2)
    steps = np.arange(SIZE) - 15.5
    shade = slope * (np.cos(towards) * steps + np.sin(towards) * steps[:, None])
    canvas = np.clip(colour(ground) + shade[..., None], 0, 255).astype(np.uint8)

    # The shape: its colour is lighter or darker by enough to be seen, whichever there is room for.
    size, turn, mirror = rng.uniform(5.5, 11), rng.uniform(-0.4, 0.4), rng.choice((-1, 1))
    reach = min(14 - size, 5)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * (size, -size)
    centre = 15.5 + rng.uniform(-reach, reach, 2)
    outlines = [pixels(outline * (mirror, 1) @ turned + centre) for outline in outlines]
    contrast = rng.uniform(55, 120) * (1 if ground < 128 else -1)
    for stroke in range(STROKES):
        if stroke == STROKES // 2:
            cv2.fillPoly(canvas, outlines, colour(ground + contrast), cv2.LINE_AA, BITS)
        start = rng.uniform(0, SIZE, 2)
        ends = pixels(np.stack([start, start + rng.uniform(-7, 7, 2)]))
        cv2.line(canvas, ends[0], ends[1], colour(rng.uniform(30, 225)), 1, cv2.LINE_AA, BITS)

    noise = rng.standard_normal(canvas.shape) * (5 + 35 * rng.uniform() ** 2)  # most pictures clear, a few grainy
    return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)
