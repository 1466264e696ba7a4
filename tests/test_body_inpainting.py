"""Inpainting continues the surrounding textures."""

import cv2
import numpy as np

from zoo.body.image.inpainting import inpaint


def test_textures_continue_behind_the_hole():
    """Grass below a brick wall: the border, the bricks and the grain continue; the other pixels stay unchanged."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :200]
    wall = np.where(((x + y // 12 % 2 * 12) % 24 < 3) | (y % 12 < 3), 200, 120)[..., None] + np.array([30, 0, -30])
    grass = cv2.GaussianBlur(rng.normal(0, 60, (120, 200)), (0, 0), 1)[..., None] + np.array([60, 130, 40])
    image = np.where(y[..., None] < 70, wall, grass).clip(0, 255).astype(np.uint8)
    hole = np.hypot((x - 100) / 18, (y - 65) / 45) < 1
    damaged = np.where(hole[..., None], 255, image).astype(np.uint8)
    result = inpaint(damaged, hole)
    assert np.array_equal(result[~hole], image[~hole])
    baseline = cv2.inpaint(damaged, np.uint8(hole), 5, cv2.INPAINT_TELEA)
    above, below = hole & (y < 64), hole & (y > 76)
    error, baseline_error = (np.abs(filled.astype(int) - image)[above].mean() for filled in (result, baseline))
    assert error < 0.5 * baseline_error
    assert result[below].std(0).min() > 0.6 * image[below].std(0).min() > baseline[below].std(0).max()
    assert np.abs(result[below].mean(0) - image[below].mean(0)).max() < 12


def test_other_people_are_not_copied():
    """A wall with a red figure beside the hole: no red is copied; without another source it is."""
    image = (np.full((90, 120, 3), 150) + np.random.default_rng(0).normal(0, 8, (90, 120, 3))).astype(np.uint8)
    image[30:80, 52:80] = (220, 30, 30)
    hole = np.zeros((90, 120), bool)
    hole[40:80, 30:55] = True
    other = (image[..., 1] < 60) & ~hole

    def redness(filled: np.ndarray) -> np.ndarray:
        return (filled[..., 0].astype(int) - filled[..., 1])[hole]

    assert redness(inpaint(image, hole)).max() > 60 and redness(inpaint(image, hole, other)).mean() < 5
    assert np.array_equal(inpaint(image, hole, np.ones_like(hole)), inpaint(image, hole))


def test_images_smaller_than_a_patch_are_filled():
    image = np.full((7, 30, 3), 90, np.uint8)
    image[2:5, 10:20] = 255
    assert inpaint(image, image[..., 0] == 255).max() < 100
    assert np.array_equal(inpaint(image, np.zeros((7, 30), bool)), image)


def test_no_step_is_left_where_a_soft_shadow_reaches_beyond_the_hole():
    """A plain floor that darkens towards the hole by 10 grey levels: no step above 2 at the border."""
    y, x = np.mgrid[:100, :160]
    distance = np.hypot((x - 80) / 40, (y - 50) / 16)
    floor = 180 - 10 * np.exp(-((np.maximum(distance - 1, 0) / 0.5) ** 2))
    image = np.repeat(floor[..., None], 3, 2).round().astype(np.uint8)
    hole = distance < 1
    result = inpaint(np.where(hole[..., None], 0, image).astype(np.uint8), hole).astype(int)
    assert np.abs(np.diff(result, axis=0))[(hole[1:] != hole[:-1])].max() <= 2
    assert np.abs(np.diff(result, axis=1))[(hole[:, 1:] != hole[:, :-1])].max() <= 2
