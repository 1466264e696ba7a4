"""How well a DabFusion autoencoder moves pictures of dancers and songs it never saw (DabFusion sec. 3.1).

    PYTHONPATH=. python tools/measure_flow.py CKPT [SHEET.png]

On the world's test clips, every fourth frame rebuilt from the first: PSNR beside that of copying the first frame; the
flow's direction at joints that moved by 4 pixels or more and are seen in both frames, beside the joints' own; and the
occlusion map where the body has left, beside where nothing was ever hidden. 95% intervals are of the clips' means.
"""

import argparse

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from zoo.data.base import WindowSpec
from zoo.files import conf_folder
from zoo.metrics.statistics import bootstrap_interval
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family

EVERY, MOVED = 4, 4.0  # frames; pixels


def psnr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(F, 3, H, W) twice -> (F,) dB"""
    return -10 * torch.log10((x - y).square().mean((1, 2, 3)).clamp(min=1e-10))


def at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(F, C, H, W) at pixels (F, J, 2), bilinear -> (F, J, C)"""
    size = places.new_tensor([values.shape[3], values.shape[2]])
    return F.grid_sample(values, (2 * places / size - 1)[:, None], align_corners=False)[:, :, 0].movedim(1, 2)


def measure(autoencoder, clip: dict) -> tuple[dict[str, float], torch.Tensor]:
    """One clip's figures, and a strip of pictures (3, H, W): source, then driving and rebuilt of two frames."""
    frames = (clip["frames"] + 1) / 2
    driving, joints, body = frames[EVERY::EVERY], clip["joints2d"][EVERY::EVERY], clip["parts"] > 0
    source = frames[:1].expand_as(driving)
    made = autoencoder(source, driving)
    size = frames.shape[-1]
    flow = F.interpolate(made.flow.movedim(-1, 1), (size, size), mode="bilinear", align_corners=False)
    came = (at(flow, joints) + 1) / 2 * (size - 1) + 0.5  # pixels of the source
    true = clip["joints2d"][:1] - joints
    bodies = (body[:1].expand(len(joints), -1, -1), joints + true), (body[EVERY::EVERY], joints)
    seen = [at(mask[:, None].float(), places)[..., 0] > 0.5 for mask, places in bodies]
    moving = (true.norm(dim=-1) >= MOVED) & seen[0] & seen[1]
    cosine = F.cosine_similarity(came - joints, true, dim=-1)[moving]
    occlusion = F.interpolate(made.occlusion, (size, size), mode="bilinear")[:, 0]
    left = body[:1] & ~body[EVERY::EVERY]
    never = ~body.any(0).expand_as(left)
    strip = [source[0], *(part for index in (2, 8) for part in (driving[index], made.image[index]))]
    figures = {
        "rebuilt, dB": psnr(made.image, driving).mean(),
        "copied, dB": psnr(source, driving).mean(),
        "gain, dB": (psnr(made.image, driving) - psnr(source, driving)).mean(),
        "cosine of flow and joints": cosine.mean(),
        "occlusion where the body left": occlusion[left].mean(),
        "occlusion where nothing was hidden": occlusion[never].mean(),
    }
    return {name: float(value) for name, value in figures.items()}, torch.cat(strip, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt")
    parser.add_argument("sheet", nargs="?")
    options = parser.parse_args()
    with initialize_config_dir(str(conf_folder()), version_base=None):
        config = compose("train", overrides=["model=dabfusion"])
    world, needs = instantiate(config.data), ("frames", "joints2d", "parts")
    encoder = build_encoder(config)
    world.prepare_data(needs, encoder, ["test"])
    clips = world.dataset("test", needs, WindowSpec(4.0, 12, 128, 128), encoder)
    autoencoder = load_family(options.ckpt)[0].autoencoder
    with torch.inference_mode():
        found, strips = zip(*(measure(autoencoder, clips[index]) for index in range(len(clips))), strict=True)
    for name in found[0]:
        values = np.array([one[name] for one in found])
        told = bootstrap_interval(values[np.isfinite(values)])
        print(f"{name:36s} {told.mean:7.3f} [{told.low:.3f}, {told.high:.3f}]")
    if options.sheet:
        sheet = (torch.cat(strips[::6], 1) * 255).round().byte().movedim(0, 2).numpy()
        cv2.imwrite(options.sheet, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
