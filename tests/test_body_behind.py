"""A hole is inpaint with what is around it."""

import cv2
import numpy as np

from zoo.body.image.inpainting import inpaint


def test_patterns_go_on_behind_the_hole():
    """Grass below a wall of bricks: the edge between them, the bricks and the grain go on; around it all stays."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :200]
    wall = np.where(((x + y // 12 % 2 * 12) % 24 < 3) | (y % 12 < 3), 200, 120)[..., None] + np.array([30, 0, -30])
    grass = cv2.GaussianBlur(rng.normal(0, 60, (120, 200)), (0, 0), 1)[..., None] + np.array([60, 130, 40])
    image = np.where(y[..., None] < 70, wall, grass).clip(0, 255).astype(np.uint8)
    hole = np.hypot((x - 100) / 18, (y - 65) / 45) < 1
    spoilt = np.where(hole[..., None], 255, image).astype(np.uint8)
    made = inpaint(spoilt, hole)
    assert np.array_equal(made[~hole], image[~hole])
    smeared = cv2.inpaint(spoilt, np.uint8(hole), 5, cv2.INPAINT_TELEA)
    above, below = hole & (y < 64), hole & (y > 76)
    error, plain = (np.abs(each.astype(int) - image)[above].mean() for each in (made, smeared))
    assert error < 0.5 * plain
    assert made[below].std(0).min() > 0.6 * image[below].std(0).min() > smeared[below].std(0).max()
    assert np.abs(made[below].mean(0) - image[below].mean(0)).max() < 12


def test_pictures_too_small_for_a_patch_are_filled_too():
    image = np.full((7, 30, 3), 90, np.uint8)
    image[2:5, 10:20] = 255
    assert inpaint(image, image[..., 0] == 255).max() < 100
    assert np.array_equal(inpaint(image, np.zeros((7, 30), bool)), image)
