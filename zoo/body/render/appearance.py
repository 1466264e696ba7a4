"""What a dancer looks like: body, colours, clothes and hair. Drawn by chance, or taken from a picture."""

from dataclasses import dataclass, replace

import numpy as np

from zoo.body.labels import BOTTOM, FACE, HAIR, HEAD, SHOES, SKIN, TOP, TORSO, TRIM
from zoo.body.render.clothing import HAIR_STYLES, LEGWEAR, SLEEVES, semantic_at
from zoo.body.render.mesh import Body, body_names, human_names

Colour = tuple[int, int, int]  # RGB, 0..255
PATTERNS = ("plain", "stripes", "bars", "checks")


@dataclass(frozen=True)
class Appearance:
    """A dancer's looks. Colours are RGB 0..255; on a figure that is not human they colour its parts of the same label.

    body: one of `zoo.body.render.mesh.body_names()`; hair_style, sleeves, legwear: keys of `zoo.body.render.clothing`; pattern of the
    top, in `trim`; eyes: of the face; background: the colour to stand before, or None for the renderer's own.
    """

    body: str = "man"
    skin: Colour = (205, 160, 130)
    hair: Colour = (60, 42, 30)
    top: Colour = (190, 60, 55)
    bottom: Colour = (50, 65, 105)
    shoes: Colour = (235, 235, 230)
    trim: Colour = (240, 235, 220)
    eyes: Colour = (45, 30, 28)
    hair_style: str = "short"
    sleeves: str = "short"
    legwear: str = "trousers"
    pattern: str = "plain"
    background: Colour | None = None

    def __post_init__(self):
        for value, known in (
            (self.body, body_names()),
            (self.hair_style, HAIR_STYLES),
            (self.sleeves, tuple(SLEEVES)),
            (self.legwear, tuple(LEGWEAR)),
            (self.pattern, PATTERNS),
        ):
            if value not in known:
                raise ValueError(f"a look knows no '{value}'; there are {', '.join(known)}")

    @property
    def palette(self) -> np.ndarray:
        """Colour of each semantic label (8, 3) float32; the background's is black."""
        colours = {SKIN: self.skin, HAIR: self.hair, TOP: self.top, BOTTOM: self.bottom, SHOES: self.shoes}
        colours |= {FACE: self.eyes, TRIM: self.trim}
        palette = np.zeros((8, 3), np.float32)
        palette[list(colours)] = list(colours.values())
        return palette


def shade(
    look: Appearance, body: Body, face: np.ndarray, point: np.ndarray, limb: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Label and colour of surface points of a (dressed) body.

    face (N,) indices; point (N, 3) rest positions; limb (N,) -> semantic (N,) uint8, colour (N, 3) float32 0..255
    """
    semantic = semantic_at(body, face, point, limb, look.hair_style, look.sleeves, look.legwear)
    colour = look.palette[semantic]
    if look.pattern != "plain":
        top = semantic == TOP
        # in a human's arms the stripes run around the sleeve
        along = np.where((limb == TORSO) | (limb == HEAD), point[:, 1], point[:, 0])[top]
        across = np.where((limb == TORSO) | (limb == HEAD), point[:, 0], point[:, 1])[top]
        step = 0.045 * body.legs
        rows, columns = np.floor(along / step) % 2, np.floor(across / step) % 2
        marked = {"stripes": rows == 0, "bars": columns == 0, "checks": rows == columns}[look.pattern]
        colour[np.flatnonzero(top)[marked]] = look.trim
    if body.human:
        eye, mouth = body.features[:, 1]
        features = np.flatnonzero(semantic == FACE)
        height = (point[features, 1] - eye) / (eye - mouth)
        colour[features[height > 0.15]] = look.hair if look.hair_style != "bald" else look.eyes  # brows
        colour[features[height < -0.5]] = 0.45 * np.array(look.skin) + 0.55 * np.array([170, 45, 55])
    return semantic, colour


def vertex_colors(look: Appearance, body: Body) -> np.ndarray:
    """One colour a vertex of a (dressed) body, for file formats that carry such. -> (V, 3) uint8"""
    face = np.zeros(len(body.vertices), np.intp)
    face[body.faces.reshape(-1)] = np.repeat(np.arange(len(body.faces)), 3)
    limb = body.limbs_at(face, body.vertices)
    return np.round(shade(look, body, face, body.vertices, limb)[1]).astype(np.uint8)


_SKINS = [(246, 214, 190), (226, 182, 148), (205, 160, 130), (176, 125, 92), (133, 88, 62), (88, 58, 44)]
_WOODS = [(214, 168, 116), (176, 120, 76), (232, 200, 152), (150, 98, 66)]
_HAIRS = [(28, 24, 26), (60, 42, 30), (110, 70, 40), (196, 150, 84), (160, 62, 34), (150, 150, 155), (190, 70, 130)]


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    channel = [v - v * s * max(0, min((n + hue) % 6, 4 - (n + hue) % 6, 1)) for n in (5, 3, 1)]
    return tuple(round(255 * c) for c in channel)


def random_appearance(rng: np.random.Generator, human: bool | None = None) -> Appearance:
    """A look drawn by chance: any body, or only humans (True), or only figures that are not (False)."""
    people = set(human_names())
    names = [name for name in body_names() if human is None or (name in people) == human]
    name = str(rng.choice(names))
    if name not in people:
        fur, wood = name in ("bear", "cat"), name == "doll"
        return Appearance(
            body=name,
            skin=_rgb(np.array(_WOODS[rng.integers(len(_WOODS))]) + rng.integers(-12, 13))
            if wood
            else _colour(rng, (0.25, 0.65), (0.4, 0.9))
            if fur
            else _colour(rng, (0.05, 0.45), (0.6, 0.95)),
            hair=_HAIRS[rng.integers(len(_HAIRS))],
            top=_colour(rng, (0.5, 0.95), (0.5, 0.95)),
            bottom=_colour(rng, (0.3, 0.9), (0.3, 0.8)),
            shoes=_colour(rng, (0.1, 0.6), (0.15, 0.5)),
            trim=_colour(rng, (0.02, 0.25), (0.75, 1.0)) if fur else _colour(rng, (0.02, 0.4), (0.4, 0.95)),
            eyes=_colour(rng, (0.5, 0.9), (0.8, 1.0)) if name in ("robot", "cat") else (28, 22, 26),
        )
    skin = np.array(_SKINS[rng.integers(len(_SKINS))]) + rng.integers(-10, 11)
    return Appearance(
        body=name,
        skin=tuple(int(c) for c in skin.clip(0, 255)),
        hair=_HAIRS[rng.choice(len(_HAIRS), p=[0.25, 0.2, 0.17, 0.15, 0.1, 0.08, 0.05])],
        top=_colour(rng, (0.0, 0.95), (0.25, 0.98)),
        bottom=_colour(rng, (0.0, 0.8), (0.12, 0.85)),
        shoes=_colour(rng, (0.0, 0.9), (0.1, 0.98)),
        trim=_colour(rng, (0.0, 0.8), (0.2, 1.0)),
        hair_style=str(rng.choice(HAIR_STYLES, p=[0.08, 0.28, 0.24, 0.16, 0.12, 0.12])),
        sleeves=str(rng.choice(list(SLEEVES))),
        legwear=str(rng.choice(list(LEGWEAR), p=[0.25, 0.55, 0.2])),
        pattern=str(rng.choice(PATTERNS, p=[0.6, 0.16, 0.12, 0.12])),
    )


def appearance_from_image(image: np.ndarray, body: str = "man") -> Appearance:
    """The colours of the figure in a picture. image (H, W, 3) uint8, any size; nothing is detected, so it never fails.

    The background is the colour most of the border has; the figure is what differs from it, most in the middle; its
    hair, skin, top, bottom and shoes are the prevailing colours of bands down the figure.
    Raises ValueError for an array that is not a picture.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a picture is an (H, W, 3) uint8 array, not {image.shape} {image.dtype}")
    rows, columns = (np.linspace(0, side - 1, min(side, 160)).round().astype(int) for side in image.shape[:2])
    pixels = image[rows][:, columns].astype(np.float32)
    edge = max(1, min(pixels.shape[:2]) // 16)
    border = np.concatenate(
        [pixels[:edge].reshape(-1, 3), *(pixels[:, s].reshape(-1, 3) for s in np.s_[:edge, -edge:])]
    )
    background = _prevailing(border)
    look = replace(Appearance(body=body), background=_rgb(background))
    figure = _figure(pixels, border, background)
    if figure is None:
        return look
    top, bottom, left, right = figure[1]
    mask, height, width = figure[0], figure[1][1] - figure[1][0], figure[1][3] - figure[1][2]

    def band(start: float, stop: float, across: float = 1.0) -> np.ndarray:
        """Figure pixels between two heights (0 crown, 1 sole), of the middle `across` of the width there."""
        first, last = (int(top + height * part) for part in (start, stop))
        rows = slice(first, max(last, first + 1))
        inside = mask[rows].copy()
        places = np.flatnonzero(inside.any(0))
        if len(places):
            centre, half = np.median(np.nonzero(inside)[1]), max(across * width / 2, 1)
            inside[:, np.abs(np.arange(mask.shape[1]) - centre) > half] = False
        return pixels[rows][inside]

    portrait = bottom >= mask.shape[0] - 2 and width > 0.55 * height  # cut off by the lower edge: no legs to see
    stretch = 2.4 if portrait else 1.0
    hair = _prevailing(band(0.0, 0.04 * stretch, 0.3))
    face = band(0.05 * stretch, 0.14 * stretch, 0.25)
    skin = _skin(face, hair)
    colours = {
        "skin": skin if skin is not None else _prevailing(face),
        "hair": hair,
        "top": _prevailing(band(0.22, 0.42, 0.35) if not portrait else band(0.6, 0.98, 0.5)),
        "bottom": None if portrait else _prevailing(band(0.55, 0.75, 0.6)),
        "shoes": None if portrait else _prevailing(band(0.96, 1.0)),
    }
    found = {name: _rgb(colour) for name, colour in colours.items() if colour is not None}
    return replace(look, **found)


def _rgb(colour: np.ndarray) -> Colour:
    return tuple(int(c) for c in np.round(colour).clip(0, 255))


def _prevailing(pixels: np.ndarray) -> np.ndarray | None:
    """The commonest colour: the mean of the fullest of 6 x 6 x 6 boxes of colours; None of no pixels."""
    if not len(pixels):
        return None
    boxes = (pixels // 43).astype(int) @ [36, 6, 1]
    return pixels[boxes == np.bincount(boxes).argmax()].mean(0)


def _skin(pixels: np.ndarray, hair: np.ndarray | None) -> np.ndarray | None:
    """Colour of the better lit half of what may be skin (Kovac et al. 2003, loosened for dark skin), if much is."""
    if not len(pixels) or hair is None:
        return None
    r, g, b = pixels.T
    like = (r > 50) & (r > g) & (g > 0.75 * b) & (r - np.minimum(g, b) > 12) & (r < 3.2 * g)
    like &= np.linalg.norm(pixels - hair, axis=1) > 40
    if like.mean() < 0.2:
        return None
    found = pixels[like]
    bright = found.sum(1)
    return found[bright >= np.median(bright)].mean(0)


def _figure(pixels: np.ndarray, border: np.ndarray, background: np.ndarray):
    """Mask of what differs from the border, and its box (top, bottom, left, right), or None where nothing does."""
    # distance to the nearest of a few border colours, so that a floor and a wall are both background
    tones = np.unique((border // 32).astype(int), axis=0, return_counts=True)
    common = tones[0][np.argsort(-tones[1])[:6]] * 32.0 + 16
    known = np.concatenate([background[None], common[: (tones[1] > 0.04 * len(border)).sum()]])
    distance = np.linalg.norm(pixels[:, :, None] - known, axis=-1).min(-1)
    mask = distance > max(40.0, 1.2 * float(np.median(np.abs(border - background).max(1))))
    height, width = mask.shape
    middle = np.exp(-np.square((np.arange(width) - width / 2) / (0.35 * width)))
    columns = np.flatnonzero((mask.sum(0) * middle) > 0.08 * height)
    if mask.mean() < 0.01 or not len(columns):
        return None
    mask[:, : columns[0]] = False
    mask[:, columns[-1] + 1 :] = False
    rows = np.flatnonzero(mask.sum(1) >= max(1, 0.01 * width))
    if len(rows) < 4:
        return None
    return mask, (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
