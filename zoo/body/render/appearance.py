"""Appearance of a dancer: body, colors, clothes and hair, drawn at random or taken from an image."""

from dataclasses import dataclass, replace

import numpy as np

from zoo.body.labels import BOTTOM, FACE, HAIR, HEAD, SHOES, SKIN, TOP, TORSO, TRIM
from zoo.body.render.clothing import HAIR_STYLES, LEGWEAR, SLEEVES, semantic_at
from zoo.body.render.mesh import Body, body_names, human_names

Color = tuple[int, int, int]  # RGB, 0..255
PATTERNS = ("plain", "stripes", "bars", "checks")
STRIPE_WIDTH = 0.045  # metres, on a body with legs of the canonical length
LIP_COLOR = np.array([170, 45, 55])
LIP_SKIN_WEIGHT, LIP_COLOR_WEIGHT = 0.45, 0.55  # weights of the skin's color and of LIP_COLOR in the lips' color


@dataclass(frozen=True)
class Appearance:
    """Appearance of a dancer. Colors are RGB 0..255; on figures that are not human they apply to parts of that label.

    body: one of `zoo.body.render.mesh.body_names()`; hair_style, sleeves, legwear: keys of
    `zoo.body.render.clothing`; pattern: of the top, in the color `trim`; eyes: color of the face's features;
    background: color of the studio, or None for the renderer's own. Raises ValueError for an unknown name.
    """

    body: str = "man"
    skin: Color = (205, 160, 130)
    hair: Color = (60, 42, 30)
    top: Color = (190, 60, 55)
    bottom: Color = (50, 65, 105)
    shoes: Color = (235, 235, 230)
    trim: Color = (240, 235, 220)
    eyes: Color = (45, 30, 28)
    hair_style: str = "short"
    sleeves: str = "short"
    legwear: str = "trousers"
    pattern: str = "plain"
    background: Color | None = None

    def __post_init__(self) -> None:
        for value, choices in (
            (self.body, body_names()),
            (self.hair_style, HAIR_STYLES),
            (self.sleeves, tuple(SLEEVES)),
            (self.legwear, tuple(LEGWEAR)),
            (self.pattern, PATTERNS),
        ):
            if value not in choices:
                raise ValueError(f"unknown appearance '{value}'; choose one of {', '.join(choices)}")

    @property
    def palette(self) -> np.ndarray:
        """Color of each semantic label (8, 3) float32; the background's is black."""
        colors = {SKIN: self.skin, HAIR: self.hair, TOP: self.top, BOTTOM: self.bottom, SHOES: self.shoes}
        colors |= {FACE: self.eyes, TRIM: self.trim}
        palette = np.zeros((8, 3), np.float32)
        palette[list(colors)] = list(colors.values())
        return palette


def shade(
    appearance: Appearance, body: Body, face: np.ndarray, point: np.ndarray, limb: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Label and color of surface points of a clothed body, without light.

    face (N,) indices; point (N, 3) rest positions; limb (N,) -> semantic (N,) uint8, color (N, 3) float32 0..255
    """
    clothing_style = appearance.hair_style, appearance.sleeves, appearance.legwear
    semantic = semantic_at(body, face, point, limb, *clothing_style)
    color = appearance.palette[semantic]
    if appearance.pattern != "plain":
        is_top = semantic == TOP
        # on the arms of a T-pose the stripes run around the sleeve
        height = np.where((limb == TORSO) | (limb == HEAD), point[:, 1], point[:, 0])[is_top]
        lateral = np.where((limb == TORSO) | (limb == HEAD), point[:, 0], point[:, 1])[is_top]
        stripe_width = STRIPE_WIDTH * body.leg_scale
        rows, columns = np.floor(height / stripe_width) % 2, np.floor(lateral / stripe_width) % 2
        has_trim_color = {"stripes": rows == 0, "bars": columns == 0, "checks": rows == columns}[appearance.pattern]
        color[np.flatnonzero(is_top)[has_trim_color]] = appearance.trim
    if body.human:
        eye_y, mouth_y = body.features[:, 1]
        feature_indices = np.flatnonzero(semantic == FACE)
        # above the eyes, over the distance from eyes to mouth
        feature_height = (point[feature_indices, 1] - eye_y) / (eye_y - mouth_y)
        brow_color = appearance.hair if appearance.hair_style != "bald" else appearance.eyes
        color[feature_indices[feature_height > 0.15]] = brow_color
        color[feature_indices[feature_height < -0.5]] = (
            LIP_SKIN_WEIGHT * np.array(appearance.skin) + LIP_COLOR_WEIGHT * LIP_COLOR
        )
    return semantic, color


def vertex_colors(appearance: Appearance, body: Body) -> np.ndarray:
    """One color a vertex of a clothed body, for file formats that store them. -> (V, 3) uint8"""
    face = np.zeros(len(body.vertices), np.intp)
    face[body.faces.reshape(-1)] = np.repeat(np.arange(len(body.faces)), 3)
    limb = body.limbs_at(face, body.vertices)
    return np.round(shade(appearance, body, face, body.vertices, limb)[1]).astype(np.uint8)


_SKIN_COLORS = [(246, 214, 190), (226, 182, 148), (205, 160, 130), (176, 125, 92), (133, 88, 62), (88, 58, 44)]
_WOOD_COLORS = [(214, 168, 116), (176, 120, 76), (232, 200, 152), (150, 98, 66)]
_HAIR_COLORS = [
    (28, 24, 26),
    (60, 42, 30),
    (110, 70, 40),
    (196, 150, 84),
    (160, 62, 34),
    (150, 150, 155),
    (190, 70, 130),
]


def _random_color(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
    """A color of a random hue, and of saturation and value (HSV) within these ranges."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    channels = [v - v * s * max(0, min((n + hue) % 6, 4 - (n + hue) % 6, 1)) for n in (5, 3, 1)]
    r, g, b = (round(255 * channel) for channel in channels)
    return r, g, b


def random_appearance(rng: np.random.Generator, human: bool | None = None) -> Appearance:
    """Draw an appearance at random: of any body, of humans only (True), or of other figures only (False)."""
    humans = set(human_names())
    names = [name for name in body_names() if human is None or (name in humans) == human]
    name = str(rng.choice(names))
    if name not in humans:
        has_fur, is_wooden = name in ("bear", "cat"), name == "doll"
        return Appearance(
            body=name,
            skin=_rgb(np.array(_WOOD_COLORS[rng.integers(len(_WOOD_COLORS))]) + rng.integers(-12, 13))
            if is_wooden
            else _random_color(rng, (0.25, 0.65), (0.4, 0.9))
            if has_fur
            else _random_color(rng, (0.05, 0.45), (0.6, 0.95)),
            hair=_HAIR_COLORS[rng.integers(len(_HAIR_COLORS))],
            top=_random_color(rng, (0.5, 0.95), (0.5, 0.95)),
            bottom=_random_color(rng, (0.3, 0.9), (0.3, 0.8)),
            shoes=_random_color(rng, (0.1, 0.6), (0.15, 0.5)),
            trim=_random_color(rng, (0.02, 0.25), (0.75, 1.0))
            if has_fur
            else _random_color(rng, (0.02, 0.4), (0.4, 0.95)),
            eyes=_random_color(rng, (0.5, 0.9), (0.8, 1.0)) if name in ("robot", "cat") else (28, 22, 26),
        )
    skin = np.array(_SKIN_COLORS[rng.integers(len(_SKIN_COLORS))]) + rng.integers(-10, 11)
    return Appearance(
        body=name,
        skin=_rgb(skin),
        hair=_HAIR_COLORS[rng.choice(len(_HAIR_COLORS), p=[0.25, 0.2, 0.17, 0.15, 0.1, 0.08, 0.05])],
        top=_random_color(rng, (0.0, 0.95), (0.25, 0.98)),
        bottom=_random_color(rng, (0.0, 0.8), (0.12, 0.85)),
        shoes=_random_color(rng, (0.0, 0.9), (0.1, 0.98)),
        trim=_random_color(rng, (0.0, 0.8), (0.2, 1.0)),
        hair_style=str(rng.choice(HAIR_STYLES, p=[0.08, 0.28, 0.24, 0.16, 0.12, 0.12])),
        sleeves=str(rng.choice(list(SLEEVES))),
        legwear=str(rng.choice(list(LEGWEAR), p=[0.25, 0.55, 0.2])),
        pattern=str(rng.choice(PATTERNS, p=[0.6, 0.16, 0.12, 0.12])),
    )


def appearance_from_image(image: np.ndarray, body: str = "man") -> Appearance:
    """Take the colors of the figure in an image (H, W, 3) uint8 of any size. Uses no detector, so it always succeeds.

    The background has the commonest color of the border; the figure is the part that differs from it, near the middle.
    Its hair, skin, top, bottom and shoes have the commonest colors of horizontal bands of the figure.
    Raises ValueError for an array that is no image.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected an image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    rows, columns = (np.linspace(0, side - 1, min(side, 160)).round().astype(int) for side in image.shape[:2])
    pixels = image[rows][:, columns].astype(np.float32)
    edge_width = max(1, min(pixels.shape[:2]) // 16)
    border = np.concatenate(
        [pixels[:edge_width].reshape(-1, 3), *(pixels[:, s].reshape(-1, 3) for s in np.s_[:edge_width, -edge_width:])]
    )
    background = _commonest_color(border)
    appearance = replace(Appearance(body=body), background=_rgb(background))
    mask_and_box = _find_figure(pixels, border, background)
    if mask_and_box is None:
        return appearance
    mask, (top, bottom, left, right) = mask_and_box
    height, width = bottom - top, right - left

    def band(start_fraction: float, stop_fraction: float, relative_width: float = 1.0) -> np.ndarray:
        """Figure pixels between two heights (0 crown, 1 sole), within `relative_width` of the figure's width."""
        first, last = (int(top + height * fraction) for fraction in (start_fraction, stop_fraction))
        rows = slice(first, max(last, first + 1))
        band_mask = mask[rows].copy()
        if band_mask.any():
            center, half_width = np.median(np.nonzero(band_mask)[1]), max(relative_width * width / 2, 1)
            band_mask[:, np.abs(np.arange(mask.shape[1]) - center) > half_width] = False
        return pixels[rows][band_mask]

    is_portrait = bottom >= mask.shape[0] - 2 and width > 0.55 * height  # cut off by the lower edge: without legs
    band_stretch = 2.4 if is_portrait else 1.0
    hair = _commonest_color(band(0.0, 0.04 * band_stretch, 0.3))
    face = band(0.05 * band_stretch, 0.14 * band_stretch, 0.25)
    skin = _skin_color(face, hair)
    colors = {
        "skin": skin if skin is not None else _commonest_color(face),
        "hair": hair,
        "top": _commonest_color(band(0.22, 0.42, 0.35) if not is_portrait else band(0.6, 0.98, 0.5)),
        "bottom": None if is_portrait else _commonest_color(band(0.55, 0.75, 0.6)),
        "shoes": None if is_portrait else _commonest_color(band(0.96, 1.0)),
    }
    return replace(appearance, **{name: _rgb(color) for name, color in colors.items() if color is not None})


def _rgb(color: np.ndarray) -> Color:
    r, g, b = (int(channel) for channel in np.round(color).clip(0, 255))
    return r, g, b


def _commonest_color(pixels: np.ndarray) -> np.ndarray | None:
    """The mean of the fullest one of 6 x 6 x 6 bins of colors; None if there are no pixels."""
    if not len(pixels):
        return None
    bin_of_pixel = (pixels // 43).astype(int) @ [36, 6, 1]
    return pixels[bin_of_pixel == np.bincount(bin_of_pixel).argmax()].mean(0)


def _skin_color(pixels: np.ndarray, hair: np.ndarray | None) -> np.ndarray | None:
    """Mean color of the brighter half of skin pixels (Kovac et al. 2003, relaxed for dark skin), if there are many."""
    if not len(pixels) or hair is None:
        return None
    r, g, b = pixels.T
    is_skin = (r > 50) & (r > g) & (g > 0.75 * b) & (r - np.minimum(g, b) > 12) & (r < 3.2 * g)
    is_skin &= np.linalg.norm(pixels - hair, axis=1) > 40
    if is_skin.mean() < 0.2:
        return None
    skin_pixels = pixels[is_skin]
    brightness = skin_pixels.sum(1)
    return skin_pixels[brightness >= np.median(brightness)].mean(0)


def _find_figure(
    pixels: np.ndarray, border: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, tuple[int, int, int, int]] | None:
    """Mask of the part that differs from the border, and its box (top, bottom, left, right); None if there is none."""
    # distance to the nearest of a few border colors, so that a floor and a wall both count as background
    color_bins, counts = np.unique((border // 32).astype(int), axis=0, return_counts=True)
    frequent = color_bins[np.argsort(-counts)[:6]] * 32.0 + 16
    background_colors = np.concatenate([background[None], frequent[: (counts > 0.04 * len(border)).sum()]])
    color_distance = np.linalg.norm(pixels[:, :, None] - background_colors, axis=-1).min(-1)
    mask = color_distance > max(40.0, 1.2 * float(np.median(np.abs(border - background).max(1))))
    height, width = mask.shape
    column_weights = np.exp(-np.square((np.arange(width) - width / 2) / (0.35 * width)))
    columns = np.flatnonzero((mask.sum(0) * column_weights) > 0.08 * height)
    if mask.mean() < 0.01 or not len(columns):
        return None
    mask[:, : columns[0]] = False
    mask[:, columns[-1] + 1 :] = False
    rows = np.flatnonzero(mask.sum(1) >= max(1, 0.01 * width))
    if len(rows) < 4:
        return None
    return mask, (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
