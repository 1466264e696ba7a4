"""train.py on a corpus with damaged shards and samples: it finishes and names each."""

import numpy as np

from zoo.data.shard_file import write_shard

SECONDS, FPS, SIZE, RATE = 6, 12, 64, 22050


def sample(seed: int) -> dict:
    """Six seconds of a beat with a motion and a video of its own."""
    rng = np.random.default_rng(seed)
    phase = np.arange(SECONDS * RATE) / RATE % 0.5
    motion = np.concatenate([np.zeros((SECONDS * 30, 7)), np.tile([1, 0, 0, 0, 1, 0], (SECONDS * 30, 24))], 1)
    num_frames = SECONDS * FPS
    ramp = np.linspace(0, 255, num_frames * SIZE * SIZE * 3)
    return {
        "info": {
            "fps": str(FPS), "song": f"song-{seed}", "dancer": "d", "frames": num_frames, "height": SIZE, "width": SIZE,
            "moves": [[0, SECONDS, "kick", "left", 0.5, "kicks"]],
        },
        "sound": ((0.3 * np.exp(-30 * phase) * np.sin(6.28 * (100 + seed) * phase)).astype(np.float32), RATE),
        "motion": (motion + 0.02 * rng.normal(size=motion.shape)).astype(np.float32),
        "frames": ramp.reshape(num_frames, SIZE, SIZE, 3).astype(np.uint8),
        "parts": rng.integers(0, 25, (num_frames, SIZE, SIZE), np.uint8),
        "reference": rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8),
    }  # fmt: skip


def test_a_training_finishes_and_names_what_is_damaged(scripts, tmp_path):
    """A truncated and an empty shard, a NaN in a motion, a silent sound, a video without frames."""
    samples = {f"k{index}": sample(index) for index in range(9)}
    samples["k1"]["motion"][3, 7] = np.nan
    samples["k2"]["sound"] = np.zeros(SECONDS * RATE, np.float32), RATE
    samples["k3"]["info"]["frames"] = 0
    shards = {"a": ["k0", "k1", "k2", "k3", "k4"], "b": ["k5"], "c": [], "d": ["k6", "k7"], "val": ["k8"]}
    for name, keys in shards.items():
        write_shard(tmp_path / f"{name}.tar", [(key, samples[key]) for key in keys])
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
    done = scripts(
        "train", "model=magicdance", "renderer=diffusion", "size=debug", "stage=[motion,autoencoder]", "name=damaged",
        "data=shards", f"data.urls='{tmp_path}/{{a,b,c,d}}.tar'", f"data.val_urls={tmp_path}/val.tar",
        "trainer=cpu", "data.workers=1", "fit.max_steps=2", "fit.batch_size=4", "fit.limit_val_batches=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("left out")]
    for text in (
        "b.tar cannot be read", "c.tar has no sample", "k1.motion.npy is damaged", "k2.flac is silent",
        "k3.json: the video has no frames",
    ):  # fmt: skip
        assert any(text in line for line in lines), (text, lines)
    assert (scripts.folder / "runs" / "magicdance" / "damaged" / "autoencoder" / "last.ckpt").exists()
