"""A picture's ground is what is seen of it, and else what is around; figures are found by their latents."""

import pytest
import torch
from weights import numbers

from zoo.nn.figure_segmentation import (
    BODY_REGIONS,
    FigureSegmenter,
    composite_regions,
    foreground_mask,
    inpaint_background,
    region_masks,
    region_means,
)


def test_a_ground_is_kept_where_it_is_seen_and_even_ones_are_whole():
    latents, figure = numbers("latents", 2, 3, 12, 8), torch.zeros(2, 1, 12, 8)
    figure[:, :, 3:9, 2:5] = 1
    ground = inpaint_background(latents, figure)
    assert torch.equal(ground * (1 - figure), latents * (1 - figure))
    changed = inpaint_background(torch.where(figure > 0, latents + 5, latents), figure)
    torch.testing.assert_close(changed, ground)  # nothing of the figure is left
    inside = ground[:, :, 3:9, 2:5]
    assert inside.max() < latents.max() and inside.min() > latents.min() and inside.std() > 0.05
    even = torch.tensor([0.5, -2.0, 3.0])[None, :, None, None].expand(2, -1, 12, 8)
    torch.testing.assert_close(inpaint_background(torch.where(figure > 0, 9.0, even), figure), even)
    halves = torch.cat([even[..., :4], -even[..., :4]], 3)  # what is near counts
    found = inpaint_background(torch.where(figure > 0, 9.0, halves), figure)
    assert torch.equal(found[..., 2].sign(), even[..., 2].sign()) and torch.equal(
        found[..., 4].sign(), -even[..., 4].sign()
    )
    assert inpaint_background(latents, torch.ones(2, 1, 12, 8)).isfinite().all()


def test_figures_are_found_by_what_their_latents_have():
    torch.manual_seed(0)
    finder = FigureSegmenter(4, channels=(16, 32))
    optimizer = torch.optim.Adam(finder.parameters(), 3e-3)

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        parts = torch.zeros(8, 64, 64, dtype=torch.uint8)
        for one, (top, left) in zip(parts, torch.randint(40, (8, 2)).tolist(), strict=True):
            one[top : top + 20, left : left + 12] = 7
        return torch.randn(8, 4, 16, 16) + 2 * foreground_mask(parts, (16, 16)) * torch.tensor([1.0, -1, 1, 0]).view(
            4, 1, 1
        ), parts

    for _ in range(60):
        optimizer.zero_grad()
        finder.loss(*drawn()).backward()
        optimizer.step()
    latents, parts = drawn()
    with torch.no_grad():
        found, wanted = finder(latents)[0] > 0.5, foreground_mask(parts, (16, 16)) > 0
        odd = finder(latents[..., :15, :13])[0]
    assert odd.shape == (8, 1, 15, 13) and ((odd > 0.5) == (found[..., :15, :13])).float().mean() > 0.95
    assert (found & wanted).sum() / (found | wanted).sum() == pytest.approx(1, abs=0.15)


def test_regions_are_painted_in_their_looks():
    """A frame of the picture's own parts, whose regions have a colour each, is painted as it is."""
    assert sorted(sum(BODY_REGIONS, ())) == list(range(1, 25))
    parts = torch.zeros(1, 64, 64, dtype=torch.uint8)
    parts[:, 8:56, 16:48] = torch.arange(1, 25, dtype=torch.uint8).repeat_interleave(2)[None, :, None]
    size = (32, 32)  # every part is one row of places
    shares = region_masks(parts, size)
    assert shares[0, :, 4:28, 8:24].sum(0).eq(1).all() and shares.sum() == 24 * 16
    colours = numbers("colours", 1, len(BODY_REGIONS), 3)
    picture = composite_regions(torch.full((1, 3, 32, 32), 2.0), colours, shares[:, None])[:, :, 0]
    assert (picture[..., :4, :] == 2).all() and torch.equal(picture[0, :, 4, 10], colours[0, 0])  # part 1, the trunk
    known = region_means(picture, shares)
    mean = (colours[0] * shares.sum((2, 3)).T / shares.sum()).sum(0)
    count = shares.sum((2, 3))[0, :, None]
    torch.testing.assert_close(known[0], (colours[0] * count + mean) / (count + 1))
    unseen = region_means(picture, shares * (torch.arange(8) != 3).view(1, -1, 1, 1))
    assert (unseen[0, 3] - mean).norm() < (colours[0, 3] - mean).norm() and not unseen.isnan().any()
