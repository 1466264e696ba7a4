"""Where things are: regions found without supervision, and how each moved between two pictures (MRAA, as LFDM does)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.families.dabfusion.blocks import Encoder, Hourglass, grid, warp
from zoo.families.dabfusion.limbs import LIMBS, pointed
from zoo.nn.perceptual_loss import AntiAliasDownsample

LEAST = 1e-6  # of a spread, squared: a hundredth of a pixel of a quarter of 128


@dataclass(frozen=True)
class Regions:
    """K soft regions of each of B pictures."""

    shift: Tensor  # (B, K, 2) their centres
    covar: Tensor  # (B, K, 2, 2) their spread
    affine: Tensor  # (B, K, 2, 2) a square root of it: the region's own axes and sizes
    heatmap: Tensor  # (B, K, h, w) each sums to 1

    def select(self, index: slice) -> "Regions":
        """Those of some of the pictures."""
        return Regions(self.shift[index], self.covar[index], self.affine[index], self.heatmap[index])

    def expand(self, count: int) -> "Regions":
        """One picture's, for `count` pictures."""
        return Regions(*(part.expand(count, *part.shape[1:]) for part in vars(self).values()))

    def detach(self) -> "Regions":
        """The same, through which nothing is learned."""
        return Regions(*(part.detach() for part in vars(self).values()))


class RegionPredictor(nn.Module):
    """Heat maps by an hourglass on a smaller picture; a region's frame is the PCA of its heat map (MRAA sec. 3.2)."""

    def __init__(
        self,
        regions: int,
        width: int,
        most: int,
        blocks: int,
        temperature: float = 0.1,
        factor: int = 4,
        limbs: bool = False,
        folded: bool = False,
    ):
        """factor: by which pictures are shrunk, by blurring, or if `folded` into channels, which loses nothing. limbs:
        the regions are `LIMBS`, whose ends are known. Raises ValueError when there are more or fewer of them.
        """
        super().__init__()
        if limbs and regions != len(LIMBS):
            raise ValueError(f"{regions} regions cannot be limbs, of which there are {len(LIMBS)}")
        self.limbs = limbs
        self.predictor = Hourglass(width, 3 * factor**2 if folded else 3, blocks, most)
        self.regions = nn.Conv2d(self.predictor.channels, regions, 7, padding=3)
        self.down = nn.PixelUnshuffle(factor) if folded else AntiAliasDownsample(3, factor)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Regions:
        """(B, 3, H, W) -> Regions"""
        maps = self.regions(self.predictor(self.down(x))).float()
        heat = F.softmax(maps.flatten(2) / self.temperature, 2).view_as(maps)
        with torch.autocast(x.device.type, enabled=False):  # sums over pixels and inverses of small spreads
            places = grid(*heat.shape[2:], heat)
            shift = torch.einsum("bkhw,hwc->bkc", heat, places)
            apart = places - shift[:, :, None, None]  # (B, K, h, w, 2)
            covar = torch.einsum("bkhw,bkhwc,bkhwd->bkcd", heat, apart, apart)
            # a heat map may shrink to one pixel, whose spread has no inverse
            covar = covar + LEAST * torch.eye(2, device=covar.device)
            affine = _square_root(covar)
            return Regions(shift, covar, pointed(shift, affine) if self.limbs else affine, heat)


def _square_root(covar: Tensor) -> Tensor:
    """U sqrt(S) of the singular value decomposition. (..., 2, 2) -> (..., 2, 2)"""
    u, s, _ = torch.linalg.svd(covar.cpu())
    return (u @ torch.diag_embed(s.sqrt())).to(covar.device)


class BackgroundMotion(nn.Module):
    """One affine motion of everything behind, from both pictures."""

    def __init__(self, width: int, most: int, blocks: int):
        super().__init__()
        self.encoder = Encoder(width, 6, blocks, most)
        self.fc = nn.Linear(min(most, width * 2**blocks), 6)
        nn.init.zeros_(self.fc.weight)
        self.fc.bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """Two (B, 3, H, W) -> (B, 2, 3), which takes coordinates of the driving picture to the source's"""
        return self.fc(self.encoder(torch.cat([source, driving], 1))[-1].mean((2, 3))).unflatten(1, (2, 3))


class PixelwiseFlowPredictor(nn.Module):
    """From the regions' motions to one flow and one occlusion map, on a quarter of the size (MRAA sec. 3.3)."""

    def __init__(
        self,
        regions: int,
        width: int,
        most: int,
        blocks: int,
        factor: int = 4,
        fine: int = 1,
        signed: bool = False,
    ):
        """fine: what is answered is so many times as fine as a quarter of the size, by sub-pixels (1 as published).

        signed: the regions' axes have signs.
        """
        super().__init__()
        self.fine, self.signed = fine, signed
        self.hourglass = Hourglass(width, 4 * (regions + 1), blocks, most)
        self.mask = nn.Conv2d(self.hourglass.channels, (regions + 1) * fine**2, 7, padding=3)
        self.occlusion = nn.Conv2d(self.hourglass.channels, fine**2, 7, padding=3)
        self.down = AntiAliasDownsample(3, factor)

    def forward(self, source: Tensor, here: Regions, there: Regions, background: Tensor) -> tuple[Tensor, ...]:
        """source (B, 3, H, W); its regions `here`, the driving picture's `there`; background (B, 2, 3) ->
        flow (B, h, w, 2): where in the source each driving pixel comes from; occlusion (B, 1, h, w), 1 visible;
        shares (B, 1 + K, h, w) of the background and the regions in each pixel's flow.
        """
        small = self.down(source)
        with torch.autocast(source.device.type, enabled=False):
            places = grid(*small.shape[2:], here.shift)
            candidates = self._candidates(here, there, background.float(), places)
            hints = _bells(there, places) - _bells(here, places)  # (B, K, h, w)
            hints = F.pad(hints, (0, 0, 0, 0, 1, 0))[:, :, None]  # the background has none
            moved = warp(small.float().repeat_interleave(candidates.shape[1], 0), candidates.flatten(0, 1)).unflatten(
                0, candidates.shape[:2]
            )
        guess = self.hourglass(torch.cat([hints, moved], 2).flatten(1, 2))
        share = F.softmax(F.pixel_shuffle(self.mask(guess).float(), self.fine), 1)
        with torch.autocast(source.device.type, enabled=False):  # half precision is half a pixel
            if self.fine > 1:
                candidates = self._candidates(here, there, background.float(), grid(*share.shape[2:], here.shift))
            flow = torch.einsum("bkhw,bkhwc->bhwc", share, candidates)
        return flow, torch.sigmoid(F.pixel_shuffle(self.occlusion(guess).float(), self.fine)), share

    def _candidates(self, here: Regions, there: Regions, background: Tensor, places: Tensor) -> Tensor:
        """Where each pixel comes from, if it belongs to the background and to each region. (B, 1 + K, h, w, 2)"""
        return torch.cat([_carry(background[:, None], places), _motions(here, there, places, self.signed)], 1)


def _carry(affine: Tensor, places: Tensor) -> Tensor:
    """(B, K, 2, 3) applied to (h, w, 2) -> (B, K, h, w, 2)"""
    return torch.einsum("bkcd,hwd->bkhwc", affine[..., :2], places) + affine[:, :, None, None, :, 2]


def _motions(here: Regions, there: Regions, places: Tensor, signed: bool) -> Tensor:
    """Where each pixel comes from if it belongs to region k (MRAA eq. 8). (B, K, h, w, 2)"""
    turn = here.affine @ torch.linalg.inv(there.affine)
    if not signed:  # an axis of a region has no sign of its own: the smaller turn is meant
        turn = turn * torch.sign(turn[:, :, :1, :1])
    shift = here.shift - torch.einsum("bkcd,bkd->bkc", turn, there.shift)
    return _carry(torch.cat([turn, shift[..., None]], -1), places)


def _bells(regions: Regions, places: Tensor) -> Tensor:
    """Gaussians of the regions' centres and spreads. (B, K, h, w)"""
    apart = places - regions.shift[:, :, None, None]
    return torch.exp(-0.5 * torch.einsum("bkhwc,bkcd,bkhwd->bkhw", apart, torch.linalg.inv(regions.covar), apart))
