"""The box about a figure, its crop, and frames pasted back."""

import pytest
import torch

from zoo.families.latent.figure_crop import FigureCropConfig, PastedCrop, crop_images, figure_boxes


def _mask(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (40, 60)) -> torch.Tensor:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "scale", "box"),
    [
        (_mask(20, 10, 30, 30), 1.2, [13, 8, 24]),  # about the middle (25, 20), its side 1.2 times 20
        (_mask(0, 30, 4, 40), 2.0, [0, 20, 20]),  # moved into the picture
        (_mask(0, 0, 60, 5), 1.0, [10, 0, 40]),  # at most the shorter side
        (_mask(0, 0, 0, 0), 1.2, [10, 0, 40]),  # no figure
    ],
)
def test_a_box_holds_the_figure_and_lies_in_the_picture(mask, scale, box):
    assert figure_boxes(mask, scale).tolist() == [box]


def test_boxes_of_a_batch_have_their_own_scales_and_shifts():
    masks = _mask(20, 10, 30, 30).repeat(2, 1, 1)
    boxes = figure_boxes(masks, torch.tensor([1.0, 1.5]), torch.tensor([[0.0, 0.0], [0.1, -0.1]]))
    assert boxes.tolist() == [[15, 10, 20], [13, 2, 30]]


def test_a_crop_of_the_boxs_own_size_is_the_box():
    images = torch.randint(0, 256, (2, 4, 3, 40, 60), dtype=torch.uint8)
    boxes = torch.tensor([[13.0, 8.0, 24.0], [36.0, 16.0, 24.0]])
    expected = torch.stack([images[0, ..., 8:32, 13:37], images[1, ..., 16:40, 36:60]])
    assert torch.equal(crop_images(images, boxes, 24, "nearest"), expected)
    crops = crop_images(images.float(), boxes, 24)
    assert torch.allclose(crops, expected.float(), atol=0.02)
    # labels keep their values at any size, and halves come out in order
    assert set(crop_images(images[:, :, 0], boxes, 37, "nearest").unique().tolist()) <= set(range(256))
    columns = torch.arange(60.0).expand(1, 1, 40, 60)
    assert torch.allclose(crop_images(columns, boxes[:1], 12)[0, 0, 0], 13.5 + 2 * torch.arange(12.0))


def test_pasted_frames_replace_the_box_and_keep_the_pictures_background():
    picture = torch.rand(1, 3, 40, 60) * 2 - 1
    pixels = ((picture + 1) * 127.5).round().to(torch.uint8)[0]
    crop = PastedCrop(picture, torch.tensor([[13.0, 8.0, 24.0]]), 36)
    frames = torch.full((2, 3, 36, 36), 200, dtype=torch.uint8)
    pasted = crop.paste(frames, None)
    assert (pasted[:, :, 10:30, 15:35] == 200).all()
    pasted[:, :, 8:32, 13:37] = pixels[:, 8:32, 13:37]
    assert torch.equal(pasted, pixels.expand(2, -1, -1, -1))
    # where a frame shows the background, the picture's own pixels come back, although the crop blurs them
    unchanged = ((crop.crop + 1) * 127.5).round().to(torch.uint8)
    blurred = crop.paste(unchanged, torch.zeros(1, 1, 6, 6))[0].int() - pixels.int()
    kept = crop.paste(unchanged, torch.ones(1, 1, 6, 6))[0].int() - pixels.int()
    assert blurred.abs().max() > 10 and kept.abs().max() <= 1


def test_pasted_frames_fade_at_the_edges_inside_the_picture():
    """A difference of tone has no step there; at the picture's own edge nothing fades."""
    crop = PastedCrop(torch.zeros(1, 3, 64, 64), torch.tensor([[0.0, 14.0, 50.0]]), 50)
    pasted = crop.paste(torch.full((1, 3, 50, 50), 227, dtype=torch.uint8), None)[0, 0].float()
    row, column = pasted[40], pasted[:, 20]
    assert (row[:47] == 227).all() and (row[50:] == 128).all()  # from the picture's left edge on
    assert row[47:50].tolist() == pytest.approx([211, 178, 144], abs=2)  # (2.5, 1.5, 0.5) pixels over a width of 3
    assert column[14:17].tolist() == row[47:50].flip(0).tolist() and (column[17:] == 227).all()


@pytest.mark.parametrize("options", [{"resolution": 0}, {"resolution": 8, "scale": 0.5}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="have to be at least 1"):
        FigureCropConfig(**options)
