"""What DabFusion sees of a picture that is not square."""

import pytest
import torch
from torch.nn.functional import interpolate

from zoo.nn.square_image import pad_to_square


@pytest.mark.parametrize("height, width, size", [(128, 70, 128), (400, 225, 128), (90, 4, 64), (33, 40, 64)])
def test_the_whole_image_is_centered_and_its_border_is_smooth(height, width, size):
    """The same for a picture lying down; beyond its edges neither streaks of its last pixels nor the figure again."""
    draw = torch.Generator().manual_seed(0)
    tall = torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
    square = pad_to_square(tall, size)
    assert (pad_to_square(tall.mT, size).int() - square.mT.int()).abs().max() <= 1
    across = max(1, round(width * size / height)) if height > width else size
    down = size if height > width else round(height * size / width)
    top, left = (size - down) // 2, (size - across) // 2
    expected = interpolate(tall.float()[None], (down, across), mode="bilinear", antialias=True)[0]
    middle = square[:, top : top + down, left : left + across].float()
    assert (middle - expected).abs().max() <= 0.5
    if left > 8:
        border = square[:, :, : left - 6].float()
        assert border.diff(dim=1).abs().mean() < 0.25 * tall.float().diff(dim=1).abs().mean()
        assert abs(border.mean() - tall[:, :, 0].float().mean()) < 15


def test_a_uniform_image_stays_uniform():
    for shape in ((5, 300), (300, 5), (1, 9), (64, 64)):
        assert (pad_to_square(torch.full((3, *shape), 77, dtype=torch.uint8), 64) == 77).all()
