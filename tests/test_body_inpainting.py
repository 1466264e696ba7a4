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


def test_images_smaller_than_a_patch_are_filled():
    image = np.full((7, 30, 3), 90, np.uint8)
    image[2:5, 10:20] = 255
    assert inpaint(image, image[..., 0] == 255).max() < 100
    assert np.array_equal(inpaint(image, np.zeros((7, 30), bool)), image)
