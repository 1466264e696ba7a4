"""MuseDance: a picture, a song and a line of text become a dance, in the latents of an autoencoder (its sec. 3)."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from einops import rearrange
from torch import Tensor, nn

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.samplers import make_sampler, sample
from zoo.families.base import Family, GenerationRequest, SamplingParams
from zoo.families.latent.stages import DECODED, LatentPictures, Pictured
from zoo.families.latent.upgrade import upgrade_music_modules, upgrade_text_encoder, upgrade_unet
from zoo.music.beats import beat_phase, beats_to_frames
from zoo.music.encoder import MusicFeatures
from zoo.music.normalizer import FeatureNormalizer
from zoo.nn.figure_segmentation import BODY_REGIONS
from zoo.nn.square_image import pad_to_square
from zoo.nn.temporal import position_directions, sinusoidal_positions
from zoo.nn.text import TokenTextEncoder
from zoo.nn.vae import build_vae
from zoo.nn.video_unet.conditioning import Conditioning
from zoo.nn.video_unet.reference_net import ReferenceNet
from zoo.nn.video_unet.unet import VideoUNet
from zoo.nn.weights.layouts import ModulePrefixes, find_converter
from zoo.nn.weights.loading import LoadReport, load_strict, read_weights

PARTS = 24  # of DensePose
NOBODY = 0.1  # likelihood of a figure that no place of a picture without one reaches


class SongTokens(nn.Module):
    """What the song's modules hear: tokens of the music and of the beats, each with its place in time (sec. 3.3).

    Beats are one of two learned vectors a frame, as in the paper. Tokens carry sines of their time, counted in frames
    of the window: the paper leaves open how an attention over them knows when they sound.
    """

    def __init__(self, music_dim: int, dim: int, listens: Sequence[str], pulse: bool):
        """listens: which of 'music' and 'beats' are heard. pulse: a beat's vector also says where between two beats its
        frame lies (not in the paper).
        """
        super().__init__()
        self.music = nn.Linear(music_dim, dim) if "music" in listens else None
        self.beats = nn.Embedding(2, dim) if "beats" in listens else None
        self.pulse = nn.Linear(2, dim, bias=False) if pulse and "beats" in listens else None
        free = position_directions(dim)
        with torch.no_grad():  # what sounds is not taken for a place, by which it is found
            for one in (self.music, self.beats, self.pulse):
                if one is not None:
                    weight = one.weight if isinstance(one, nn.Embedding) else one.weight.mT
                    weight -= weight @ (free.mT @ free).to(weight)

    def forward(self, music: Tensor, places: Tensor, beats: Tensor, pulse: Tensor) -> dict[str, Tensor]:
        """music (B, L, music_dim) at places (L,), in frames; beats (B, F) 0 or 1; pulse (B, F, 2) -> (B, _, dim)"""
        heard = {}
        if self.music is not None:
            heard["music"] = _placed(self.music(music), places)
        if self.beats is not None:
            struck = self.beats(beats.long())
            if self.pulse is not None:
                struck = struck + self.pulse(pulse.to(struck.dtype))
            heard["beats"] = _placed(struck, torch.arange(beats.shape[1], device=beats.device))
        return heard


def _placed(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, L, dim) with the sines of their places (L,)."""
    return tokens + sinusoidal_positions(places, tokens.shape[2]).to(tokens.dtype)


class MuseDance(LatentPictures, Family):
    """All networks of MuseDance."""

    def __init__(
        self,
        *,
        music_dim: int,  # D, of one token of the music encoder
        text_encoder: TokenTextEncoder,  # of the prompt
        vae: Mapping[str, Any],  # arguments of the autoencoder
        unet: Mapping[str, Any],  # arguments of `VideoUNet`
        music_token_dim: int,  # width of the tokens that the U-Net attends to
        mask_encoder_channels: Sequence[int],  # of the convolutions on a DensePose mask (eq. 1)
        music_conditions: Sequence[str],  # which of the music and beats modules exist (Table 3)
        use_motion_modules: bool,  # Table 3
        num_context_frames: int,  # M, of the previous window, that motion modules attend to
        beat_phase: bool,  # add the beat's phase to the beat tokens (not in the paper)
        background_residual: bool,  # diffuse the difference to the reference's background (not in the paper)
        predict_regions: bool,  # the U-Net segments the figure's regions too (not in the paper)
        resolution: int,  # pixels per side of the square image
        num_frames: int,  # K, of one window
        fps: float,  # of a window's frames
        noise_schedule: Mapping[str, Any],  # name (stable_diffusion, animatediff, cosine), shift, prediction_type
        sampler: Mapping[str, Any],  # num_inference_steps, guidance_scale, eta
        adain_strength: float,  # see `anchored`
    ):
        """Raises ValueError for another music condition, and for another noise schedule."""
        super().__init__()
        for name in music_conditions:
            if name not in ("music", "beats"):
                raise ValueError(f"music_conditions={list(music_conditions)}: use music, beats, both or none")
        self.words = text_encoder
        self.vae = build_vae(**vae)
        latent = self.vae.config.latent_channels
        shared = dict(unet) | {"latent_channels": latent, "text_dim": text_encoder.dim}
        self.reference_net = ReferenceNet(**shared | {"dropout": 0.0})
        extra = 1 + len(BODY_REGIONS) if background_residual and predict_regions else 0
        songs = {name: music_token_dim for name in ("music", "beats") if name in music_conditions}
        self.unet = VideoUNet(
            **shared,
            use_motion_modules=use_motion_modules,
            motion_in_middle=True,
            music_token_dims=songs,
            extra_out_channels=extra,
        )
        self.mask_encoder = ControlNetConditioningEmbedding(latent, 2, tuple(mask_encoder_channels))
        self.music_scale = FeatureNormalizer(music_dim)
        self.song_tokens = SongTokens(music_dim, music_token_dim, music_conditions, beat_phase)
        self.past, self.resolution = num_context_frames if use_motion_modules else 0, resolution
        self.frames, self.fps = num_frames, Fraction(str(fps))
        self.begin_latents(
            self.unet,
            background_residual,
            noise_schedule["name"],
            noise_schedule["shift"],
            noise_schedule["prediction_type"],
            past=num_context_frames,
            imagines=predict_regions,
        )
        self.defaults, self.anchor = SamplingParams(**sampler), adain_strength
        self.use_music = True  # set by `configure`

    @classmethod
    def upgrade(
        cls, config: dict[str, Any], state_dict: dict[str, Tensor], version: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Family`."""
        names = {
            "song_dim": "music_token_dim",
            "mask_channels": "mask_encoder_channels",
            "listens": "music_conditions",
            "moves": "use_motion_modules",
            "past": "num_context_frames",
            "pulse": "beat_phase",
            "changes": "background_residual",
            "imagines": "predict_regions",
            "size": "resolution",
            "frames": "num_frames",
            "anchor": "adain_strength",
        }
        node = {names.get(name, name): value for name, value in config.items()}
        node["text_encoder"] = upgrade_text_encoder(node.pop("words"))
        node["unet"] = upgrade_unet(node["unet"])
        node["noise_schedule"] = {
            "name": node.pop("schedule"),
            "shift": node.pop("noisier"),
            "prediction_type": node.pop("prediction"),
        }
        node["sampler"] = {
            "num_inference_steps": node.pop("steps"),
            "guidance_scale": node.pop("guidance"),
            "eta": node.pop("eta"),
        }
        return node, upgrade_music_modules(state_dict)

    def load_pretrained(self, path: str) -> LoadReport:
        """Start from Stable Diffusion's U-Net or autoencoder, AnimateDiff's motion module, Moore's or Champ's nets.

        What a file does not hold stays as it is: `init=[A,B,C]` takes several. Raises ValueError, with nothing loaded,
        when anything else is missing or unexpected.
        """
        known = find_converter(read_weights(path), self.state_dict(), ModulePrefixes())
        if known is None:
            return load_strict(self, path)
        return load_strict(self, path, known[0], allowed_missing=known[1])

    def predict(self, x: Tensor, t: Tensor, request: Conditioning, reference: Pictured) -> Tensor:
        """The U-Net's answer to noisy x (B, C, F, h, w) of `changed`, with its references."""
        return self.imagine(x, t, request, reference)[0]

    def imagine(self, x: Tensor, t: Tensor, request: Conditioning, reference: Pictured) -> tuple[Tensor, Tensor | None]:
        """The same, and where the U-Net says that the figure's regions are, see `imagined`."""
        return self.imagined(self.unet(x, t, request, self.shown(reference, x)), t, reference)

    def masked(self, latents: Tensor, parts: Tensor | None) -> Tensor:
        """Eq. 1: a reference's latents (N, C, h, w), and what the mask encoder sees in its DensePose parts (N, H, W).

        Two channels are seen: whether there is a body, and which part. Without parts the latents stay as they are; the
        paper always has a detector.
        """
        if parts is None:
            return latents
        mask = torch.stack([(parts > 0).to(latents.dtype), parts.to(latents.dtype) / PARTS], 1)
        return latents + self.mask_encoder(mask)

    def tokens(self, music: Tensor, rate: float, beats: Tensor, pulse: Tensor) -> dict[str, Tensor]:
        """A window's tokens by the names of the modules that hear them.

        music (B, L, D) at `rate` Hz from the window's first frame on; beats (B, F), pulse (B, F, 2).
        """
        places = torch.arange(music.shape[1], device=music.device) * (float(self.fps) / rate)
        return self.song_tokens(self.music_scale(music), places, beats, pulse)

    def configure(self, options: Mapping[str, Any]) -> None:
        """See `Family`. use_music: false leaves out the music branch: its tokens are zero, as in unguided samples."""
        for name in set(options) - {"use_music"}:
            raise ValueError(f"{name}= is not an option of musedance")
        self.use_music = bool(options.get("use_music", self.use_music))

    def ablations(self) -> dict[str, dict[str, Any]]:
        """See `Family`."""
        return {"without music": {"use_music": False}}

    def denoisers(self) -> list[nn.Module]:
        """See `Family`."""
        return [self.unet, self.reference_net]

    def truncated_prompt(self, prompt: str) -> str:
        """See `Family`."""
        return self.words.truncated_end(prompt)

    def generate(self, request: GenerationRequest) -> Iterator[Tensor]:
        """Blocks (F, 3, size, size) uint8 of a dance of the pictured figure, window after window (sec. 3.3).

        Each window sees the last `past` frames of the one before. Its frames are `fps` of the model's own apart; asked
        for at another rate, each moment shows the nearest of them. Raises ValueError without a picture, and for one in
        which no figure is found.
        """
        image, music, prompt, frames, fps = (
            request.image,
            request.music,
            request.prompt,
            request.num_frames,
            request.fps,
        )
        sampling = request.sampling.with_defaults(self.defaults)
        if image is None:
            raise ValueError("musedance moves a picture: give image=FILE")
        picture = pad_to_square(image, self.resolution).to(self.device).float()[None] / 127.5 - 1
        latents = self.encode(picture)
        pictured = self.detailed(self.pictured(latents), picture)
        if pictured.figure is not None and pictured.figure.max() < NOBODY:
            raise ValueError("image=: this checkpoint finds no figure in it; give a picture of somebody or something")
        text = self.words([prompt]).to(self.device)
        reference = self.reference_net(latents, text=text)
        draw, before, made, window = torch.Generator("cpu").manual_seed(request.seed), None, 0, 0
        while made < frames:
            start = window * self.frames
            heard = self._song(music, start)
            conditions, weight = self._request(text, reference, before, heard, sampling)
            shown = pictured if before is None else self.following(pictured, before.movedim(0, 1)[None])
            latent = anchored(self._window(conditions, weight, shown, draw, sampling), latents, self.anchor)
            before = latent[-self.past :] if self.past else None
            # the moments nearest to this window's frames
            last = (start + self.frames - Fraction(1, 2)) * fps / self.fps
            stop = min(frames, ceil(last))
            nearest = [round(index * self.fps / fps) - start for index in range(made, stop)]
            wanted = [min(max(each, 0), self.frames - 1) for each in nearest]  # a tie may be rounded out of the window
            for first in range(0, len(wanted), DECODED):
                group = wanted[first : first + DECODED]
                distinct = sorted(set(group))
                pictures = self.decode(latent[distinct], pictured)
                yield pictures[[distinct.index(each) for each in group]]
            made, window = stop, window + 1

    def _song(self, music: MusicFeatures, start: int) -> dict[str, Tensor]:
        """The tokens of the window that begins at own frame `start`."""
        rate, fps = float(music.rate), float(self.fps)
        count = ceil(self.frames / fps * rate)
        rows = (torch.arange(count) + round(start / fps * rate)).clamp(max=len(music.features) - 1)
        seconds = (start + np.arange(self.frames)) / fps
        marks = beats_to_frames(music.beats.times - start / fps, self.frames, self.fps)
        beats, pulse = torch.from_numpy(marks), torch.from_numpy(beat_phase(music.beats.times, seconds))
        features = music.features[rows.to(music.features.device)].to(self.device)
        tokens = self.tokens(features[None], rate, beats[None].to(self.device), pulse[None].to(self.device))
        return tokens if self.use_music else {name: torch.zeros_like(value) for name, value in tokens.items()}

    def _request(
        self,
        text: Tensor,
        reference: Sequence[Tensor],
        before: Tensor | None,
        heard: Mapping[str, Tensor],
        sampling: SamplingParams,
    ) -> tuple[Conditioning, float]:
        """What the U-Net needs, and the guidance weight; guided, the second sample reads and hears nothing."""
        weight = sampling.guidance_scale
        past: list[Tensor] = []
        if before is not None:
            past = [one[None] for one in self.reference_net(before, text=text.expand(len(before), -1, -1))]
        if weight != 1:
            text = torch.cat([text, self.words([""]).to(text)])
            heard = {name: torch.cat([tokens, torch.zeros_like(tokens)]) for name, tokens in heard.items()}
            reference, past = ([one.expand(2, *one.shape[1:]) for one in known] for known in (reference, past))
        return self.unet.precompute_conditioning(text, reference, past, heard), weight

    def _window(
        self, request: Conditioning, weight: float, reference: Pictured, draw: torch.Generator, sampling: SamplingParams
    ) -> Tensor:
        """Latents (K, C, h, w) of one window. reference: one"""
        steps, eta = sampling.num_inference_steps, sampling.eta
        rule = make_sampler(self.schedule, steps)
        channels, height, width = reference.latents.shape[1:]
        both = reference.each(lambda one: one.expand(2, *one.shape[1:]))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if weight == 1:
                return self.predict(x, t, request, reference).float()
            pairs = x.repeat(2, 1, 1, 1, 1)
            read, unread = self.unet(pairs, t.repeat(2), request, self.shown(both, pairs)).float().chunk(2)
            # before regions are painted: of what is seen of them there is never less than nothing
            return self.imagined(unread + weight * (read - unread), t, reference)[0]

        def noise() -> Tensor:
            return torch.randn(1, channels, self.frames, height, width, generator=draw).to(self.device)

        denoiser = Denoiser(predict, self.schedule)
        made = self.whole(sample(denoiser, noise(), rule, noise, eta, clamp=None), reference)
        return rearrange(made[0], "c f h w -> f c h w")


def anchored(latents: Tensor, reference: Tensor, share: float) -> Tensor:
    """A window's latents (K, C, h, w), each channel's mean and deviation drawn to those of the reference (1, C, h, w).

    share: how far, 0..1. A remedy for colours that drift from window to window, which the paper admits (sec. 6) and
    leaves open. It takes for granted that a dance shows about as much of everything as its reference does.
    """
    if not share:
        return latents
    mean, deviation = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)
    wanted, spread = reference.mean((0, 2, 3), keepdim=True), reference.std((0, 2, 3), keepdim=True)
    return torch.lerp(latents, (latents - mean) / deviation.clamp(min=1e-6) * spread + wanted, share)
