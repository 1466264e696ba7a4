"""Old names stay out: parameters, attributes, classes, functions and configuration keys use the glossary's terms.

CONTRIBUTING.md holds the glossary. A word of `REFUSED` named a concept before version 0.1.0; its value is the new term.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFUSED = {
    # configuration keys and parameters
    "changes": "background_residual", "imagines": "predict_regions", "headless": "head_drop_prob", "noisier": "shift",
    "late": "timestep_bias", "measures": "estimate_latent_scale", "picks": "num_sampled_frames",
    "listens": "music_conditions", "past": "num_context_frames",
    "overlap": "num_context_frames", "anchor": "adain_strength", "pulse": "beat_phase", "begins": "no_context_prob",
    "hears": "condition_on", "song_dim": "music_token_dim", "attends": "attention_levels", "fresh": "init",
    "folded": "pixel_unshuffle_input", "hourglass_most": "hourglass_max_channels",
    "shows_regions": "condition_on_heatmaps", "guide": "limb_supervision_weight",
    "guided": "guidance_scale", "rebuilt": "num_reconstructed_clips", "coloured": "color_augment_steps",
    "warped": "warp_loss_weight", "clip_norm": "gradient_clip_val",
    "ckpt_weights": "use_ema", "wan_pixels": "renderer.resolution", "filming": "rendering", "judge": "pose_detector",
    "region_width": "region_base_channels", "flow_width": "flow_base_channels",
    # classes, functions and attributes
    "finder": "figure_segmenter", "change_scale": "residual_scale", "song_tokens": "music_tokens",
    "LatentPictures": "LatentCodec", "Pictured": "ReferenceContext", "Kept": "LatentCache",
    "DancesInMotion": "MotionGenerator", "load_public": "load_pretrained", "also_called": "fsdp_forward_methods",
    "WorldJudge": "SyntheticPoseDetector", "PeopleDetector": "BlazePoseDetector", "Evidence": "MetricInput",
    "Gauge": "ConfiguredMetric", "Dancer": "EvaluatedCheckpoint", "Takes": "EvalClips", "Take": "EvalClip",
    "Piece": "(deleted)", "pieces": "(deleted)", "source_mark": "source_hash", "beat_pulse": "beat_phase",
    "frame_beats": "beats_to_frames", "MusicScale": "FeatureNormalizer", "Fitting": "RunningMoments",
    "cut_out": "extract_figure", "Stage2D": "PuppetAnimator", "FigureFinder": "FigureSegmenter",
    "SongModule": "MusicAttentionModule", "step_rule": "make_sampler", "begin_orthogonal": "init_delta_orthogonal_",
    "Likeness": "PerceptualLoss", "noised": "add_noise",
}  # fmt: skip


def names_of(source: str) -> set[str]:
    """Parameters, stored attributes, classes and functions of a Python source text."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
    return names


def keys_of(yaml: str) -> set[str]:
    """Keys of a YAML text, in blocks and in braces."""
    return set(re.findall(r"(?:^|[{,\s])([A-Za-z_0-9]+):(?=\s|$)", re.sub(r"#.*", "", yaml), flags=re.MULTILINE))


def test_the_check_sees_an_old_name():
    assert names_of("class Kept:\n    def f(self, past): self.finder = past") >= {"Kept", "past", "finder"}
    assert keys_of("unet:\n  attends: [1] # late: no\n  x: { pulse: 1 }") == {"unet", "attends", "x", "pulse"}


def test_old_names_are_not_used():
    files = [*(ROOT / "zoo").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")]
    names = {file: (keys_of if file.suffix == ".yaml" else names_of)(file.read_text()) for file in files}
    old = [
        f"{file.relative_to(ROOT)}: {name}, use {REFUSED[name]}"
        for file in files
        for name in names[file] & REFUSED.keys()
    ]
    assert not sorted(old)
