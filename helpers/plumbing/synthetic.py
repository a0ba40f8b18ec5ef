"""Pictures drawn by the project: a stand-in for CIFAR-10 that needs no download.

Ten shapes on 32x32 pixels, with random place, size, turn and colours, on a shaded background with
strokes and specks that belong to no class, and noise. A network learns them within minutes on a
CPU; a linear model does not, because a shape is lighter than its background as often as darker,
so that no single pixel tells anything. Results on these pictures say nothing about CIFAR-10.

Every shape is a signed distance: a function of u (right) and v (up), negative inside, that grows by
about one per unit of length, so that clipping it at the edge draws the shape without jagged steps.
In these units a shape has a radius of about one. No shape is the mirror image of another, and all
are mirrored at random: flipping a picture left-right never changes its class.
"""

import numpy as np

SIZE = 32  # pixels, height and width
STROKES = 4  # strokes and specks in a picture, half of them behind the shape, half in front of it
CHUNK = 64  # pictures drawn together: small enough for the processor's cache


def length(u, v):
    return np.sqrt(u * u + v * v)  # np.hypot, which guards against overflow, is nine times slower


def arrow(u, v):
    shaft = np.maximum(np.abs(u + 0.4) - 0.6, np.abs(v) - 0.2)
    head = np.maximum(-u - 0.05, 0.6 * (u - 1) + 0.8 * np.abs(v))
    return np.minimum(shaft, head)


def checkerboard(u, v):
    cell = 0.46  # 4x4 cells
    columns, rows = (np.abs(np.mod(x, 2 * cell) - cell) - cell / 2 for x in (u - cell / 2, v - cell / 2))
    colour = -np.sign(columns * rows) * np.minimum(np.abs(columns), np.abs(rows))
    return np.maximum(colour, np.maximum(np.abs(u), np.abs(v)) - 2 * cell)


def crescent(u, v):
    return np.maximum(length(u, v) - 1, 0.85 - length(u - 0.5, v))


def cross(u, v):
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(u, v) - 0.27, np.maximum(u, v) - 0.95)


def disc(u, v):
    return length(u, v) - 0.85


def heart(u, v):
    u, v = np.abs(u), v + 0.1
    square_on_its_tip = (u + np.abs(v) - 0.9) * np.sqrt(0.5)
    two_discs = length(u - 0.45, v - 0.45) - 0.9 * np.sqrt(0.5)
    return np.minimum(square_on_its_tip, two_discs)


def ring(u, v):
    return np.abs(length(u, v) - 0.75) - 0.2


def square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) - 0.78


def star(u, v):
    # Fold the plane onto half of one of the five points; there, the star's edge is one straight line.
    fifth = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, v) + fifth / 2, fifth) - fifth / 2)
    radius = length(u, v)
    notch = 0.45 * np.array([np.cos(fifth / 2), np.sin(fifth / 2)])
    normal = np.array([notch[1], 1.1 - notch[0]])
    normal /= np.hypot(*normal)
    return (radius * np.cos(angle) - 1.1) * normal[0] + radius * np.sin(angle) * normal[1]


def triangle(u, v):
    return np.maximum(-v - 0.55, 0.5 * v + np.sqrt(0.75) * np.abs(u) - 0.55)


SHAPES = (arrow, checkerboard, crescent, cross, disc, heart, ring, square, star, triangle)
CLASSES: tuple[str, ...] = tuple(shape.__name__ for shape in SHAPES)


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` pictures; the same seed gives the same pictures, another seed gives others.

    Returns images, uint8 (count, 32, 32, 3) in RGB, and labels, int64 (count,), indices of CLASSES.
    Every ten pictures in a row hold each class once, in random order. Picture i depends on the seed
    and on i alone: fewer pictures are the first ones of more pictures.
    """
    # A stream of random numbers for each use, each read picture by picture: hence the prefix property.
    label_stream, layout_stream, noise_stream = np.random.default_rng(seed).spawn(3)
    tens = np.tile(np.arange(len(SHAPES), dtype=np.int64), (-(-count // len(SHAPES)), 1))
    labels = label_stream.permuted(tens, axis=1).reshape(-1)[:count]
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        images[part] = _draw_chunk(labels[part], layout_stream, noise_stream)
    return images, labels


def _draw_chunk(labels: np.ndarray, layout_stream, noise_stream) -> np.ndarray:
    """The pictures of these n labels: uint8 (n, 32, 32, 3)."""
    n = len(labels)
    # Uniform random numbers, 14 for a picture and 8 for a stroke; each (n, 1, 1), to broadcast over pixels.
    random = iter(layout_stream.random((n, 14 + 8 * STROKES)).T[:, :, None, None])

    def between(low, high):
        return low + (high - low) * next(random)

    def colour(level):
        """A colour (n, 3, 1, 1) of this grey level, 0 to 255, and of random hue and saturation."""
        hue, strength = between(0, 2 * np.pi), between(20, 60)
        return np.stack([level + strength * np.cos(hue + k * 2 * np.pi / 3) for k in range(3)], axis=1)

    def paint(mask, paint_colour):
        step = paint_colour - canvas
        step *= mask[:, None]
        np.add(canvas, step, out=canvas)

    x, y = np.meshgrid(np.arange(SIZE) - 15.5, 15.5 - np.arange(SIZE))  # pixels from the centre, y up

    # The background: one colour, brightened towards a random side.
    ground = between(50, 205)
    towards, slope = between(0, 2 * np.pi), between(0, 1.2)
    shade = slope * (np.cos(towards) * x + np.sin(towards) * y)
    canvas = colour(ground) + shade[:, None]

    # The shape: its colour is lighter or darker by enough to be seen, whichever there is room for.
    size = between(5.5, 11)  # pixels
    turn, mirror = between(-0.4, 0.4), np.sign(between(-1, 1))
    reach = np.minimum(14 - size, 5)
    right, up = x - reach * between(-1, 1), y - reach * between(-1, 1)
    u = mirror * (np.cos(turn) * right + np.sin(turn) * up) / size
    v = (np.cos(turn) * up - np.sin(turn) * right) / size
    distance = np.empty((n, SIZE, SIZE))
    for label in np.unique(labels):
        chosen = labels == label
        distance[chosen] = SHAPES[label](u[chosen], v[chosen])
    shape = np.clip(0.5 - distance * size, 0, 1)
    contrast = between(55, 120) * np.where(ground < 128, 1, -1)
    shape_colour = colour(ground + contrast)

    for stroke in range(STROKES):
        if stroke == STROKES // 2:
            paint(shape, shape_colour)
        # A stroke is a segment with round ends; a short one is a speck.
        angle, half_length = between(0, np.pi), between(0, 7)
        right, up = x - between(-16, 16), y - between(-16, 16)
        along = np.cos(angle) * right + np.sin(angle) * up
        across = np.cos(angle) * up - np.sin(angle) * right
        outside = np.maximum(np.abs(along) - half_length, 0)
        mask = np.clip(0.5 + between(0.3, 1.2) - length(outside, across), 0, 1)
        paint(mask, colour(between(30, 225)))

    noise = noise_stream.standard_normal(canvas.shape)
    noise *= 5 + 35 * between(0, 1)[:, None] ** 2  # grey levels; most pictures clear, a few grainy
    canvas += noise
    return np.clip(np.rint(canvas, out=canvas), 0, 255, out=canvas).astype(np.uint8).transpose(0, 2, 3, 1)
