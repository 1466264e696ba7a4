"""Batches are a function of (seed, step, rank): closed form, resuming, sharing between ranks, loader processes."""

import itertools

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import Dataset

from zoo.data.base import DataSource, WindowSpec, check_stage_data, collate
from zoo.data.global_batch import GlobalBatch
from zoo.data.module import DanceData, StepSampler
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.source import World


class Counting(Dataset):
    """Item i is the number i."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"key": str(index), "motion": torch.full((2, 151), float(index)), "fps": 30.0}


class Numbers(DataSource):
    """A source of numbers."""

    name = "numbers"
    hint = "use data=world"
    available_keys = frozenset({"key", "motion"})

    def prepare_data(self, keys, encoder):
        self.prepared_keys = set(keys)

    def dataset(self, split, keys, window, encoder):
        return Counting(23 if split == "train" else 7)

    def eval_clips(self, split, spec, encoder):
        raise NotImplementedError

    def fingerprint(self, split):
        return "numbers"


WINDOW = WindowSpec(seconds=5)


def first(batches, count):
    return list(itertools.islice(batches, count))


def test_epochs_are_permutations_and_nothing_is_dropped():
    places = list(itertools.chain.from_iterable(first(StepSampler(10, 4, seed=3), 15)))
    epochs = [places[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert places != list(itertools.chain.from_iterable(first(StepSampler(10, 4, seed=4), 15)))
    draws = itertools.chain.from_iterable(first(StepSampler(10, 4, seed=3, unique_draws=True), 15))
    assert list(draws) == [place + 10 * (index // 10) for index, place in enumerate(places)]


@pytest.mark.parametrize("step", [0, 1, 5, 17])
def test_resumed_sampler_gives_the_same_tail(step):
    whole = first(StepSampler(11, 3, seed=0, rank=1, world_size=2), 30)
    assert first(StepSampler(11, 3, seed=0, rank=1, world_size=2, start_step=step), 30 - step) == whole[step:]


def test_ranks_share_the_global_batch():
    single = StepSampler(50, 8, seed=7)
    ranks = [StepSampler(50, 2, seed=7, rank=rank, world_size=4) for rank in range(4)]
    for step in range(20):
        assert sum((sampler.batch(step) for sampler in ranks), []) == single.batch(step)


@pytest.mark.parametrize(
    "num_clips, world_size, max_batch_size, num_batches",
    [
        (20, 1, 20, 1),
        (20, 8, 20, 1),
        (100, 32, 100, 1),
        (384, 1, 12, 32),
        (384, 8, 12, 4),
        (64, 32, 2, 1),
        (3, 2, 1, 2),
    ],
)
def test_a_step_has_its_clips_and_their_mean_gradient_on_any_number_of_processes(
    num_clips, world_size, max_batch_size, num_batches
):
    """Shares differ by at most one clip; averages over batches and processes are the mean over all clips."""
    division = GlobalBatch.divide(num_clips, world_size, max_batch_size)
    assert division.num_batches == num_batches
    single, steps = StepSampler(50, num_clips, seed=7), range(3)
    ranks = [StepSampler(50, 1, 7, rank, world_size, 0, False, division) for rank in range(world_size)]
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for step in steps:
        batches = {
            (index, rank): sampler.batch(step * num_batches + index)[: division.count(rank, index) or None]
            for index in range(num_batches) for rank, sampler in enumerate(ranks)
        }  # fmt: skip
        shares = [sum(division.count(rank, index) for index in range(num_batches)) for rank in range(world_size)]
        assert sum(shares) == num_clips and max(shares) - min(shares) <= 1
        assert all(0 < len(batch) <= max_batch_size for batch in batches.values())
        weighted = [division.loss_weight(rank, index) for index, rank in batches]
        means = [values[batch].mean() for batch in batches.values()]
        gradient = sum(w * m for w, m in zip(weighted, means, strict=True)) / len(batches)
        torch.testing.assert_close(gradient, values[single.batch(step)].mean(), atol=1e-5, rtol=1e-5)
        clips = [clip for (index, rank), batch in batches.items() if division.count(rank, index) for clip in batch]
        assert clips == single.batch(step)


def test_more_processes_than_clips_are_refused_in_a_line_that_names_what_is_possible():
    with pytest.raises(ValueError, match=r"^global_batch_size=20 .* at most 20 processes \(.*: 1, 2, 4, 5, 10, 20\)$"):
        GlobalBatch.divide(20, 32, 20)


def test_batches_may_be_larger_than_the_data_set():
    assert [len(batch) for batch in first(StepSampler(2, 5, seed=0), 3)] == [5, 5, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders(workers):
    data = DanceData(
        Numbers(), None, {"motion": ("motion",)}, batch_size=4, window=WINDOW, seed=5, num_workers=workers, val_items=5
    )
    batches = first(data.train_dataloader(), 8)
    expected = first(StepSampler(23, 4, seed=5), 8)
    assert [[int(key) for key in batch["key"]] for batch in batches] == expected
    assert batches[0]["motion"].shape == (4, 2, 151) and batches[0]["fps"] == 30.0
    data.start_step = 6
    assert [batch["key"] for batch in first(data.train_dataloader(), 2)] == [batch["key"] for batch in batches[6:]]
    val = [batch["key"] for batch in data.val_dataloader()]
    assert val == [["0", "1", "2", "4"], ["5"]] == [batch["key"] for batch in data.val_dataloader()]
    assert sorted(int(key) for batch in data.batches() for key in batch["key"]) == list(range(23))


def test_missing_key_is_refused_by_name_before_anything_starts():
    with pytest.raises(ValueError, match="'flow' needs frames.*data 'numbers'.*data=world"):
        DanceData(Numbers(), None, {"motion": ("motion",), "flow": ("frames", "motion")}, batch_size=4, window=WINDOW)


def test_stages_that_learn_one_motion_for_each_song_refuse_dancers_who_choose():
    window = WindowSpec(seconds=1, fps=12, height=64, width=64)
    stages = {"image": (("music",), window), "encoder": (("music", "joints2d"), window)}
    world = World(seconds=6, rendering=RenderSpec(fps=12, height=64, width=64, seconds=2))
    check_stage_data(world, stages)
    with pytest.raises(ValueError, match="^stage 'encoder' learns one motion for each song.*data=sdgpip$"):
        check_stage_data(world, stages, regresses_motion=["encoder"])


def test_stages_that_the_world_cannot_feed_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    """Frame rate, length and proportions of every stage's window are checked; nothing is written."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path))
    world = World(seconds=6, rendering=RenderSpec(fps=12, height=64, width=64, seconds=2))
    usable = {
        "motion": (("motion",), WindowSpec(seconds=5)),
        "video": (("motion", "frames"), WindowSpec(num_frames=24, fps=12)),
    }
    check_stage_data(world, usable)
    for window, words in (
        (WindowSpec(num_frames=24, fps=24), "clip.fps=24 is above data.rendering.fps=12"),
        (WindowSpec(num_frames=25, fps=12), "lasts 2.08 s, clips last 2.00 s"),
        (WindowSpec(num_frames=24, fps=12, width=64), "without distortion"),
    ):
        with pytest.raises(ValueError, match=f"^stage 'video': .*{words}") as error:
            check_stage_data(world, usable | {"video": (("frames",), window)})
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="stage 'motion': a window lasts 7.00 s, clips last 6.00 s"):
        check_stage_data(world, {"motion": (("motion",), WindowSpec(seconds=7))})
    with pytest.raises(ValueError, match="stage 'flow' needs frames, which data 'numbers' does not have"):
        check_stage_data(Numbers(), {"motion": (("motion",), WINDOW), "flow": (("frames",), WINDOW)})
    assert not any(tmp_path.iterdir())


def test_collate_lists_texts_and_keeps_constants():
    batch = collate(
        [
            {"key": "a", "fps": 12.0, "beats": torch.tensor([0, 1])},
            {"key": "b", "fps": 12.0, "beats": torch.tensor([1, 0])},
        ]
    )
    assert batch["key"] == ["a", "b"] and batch["fps"] == 12.0 and batch["beats"].tolist() == [[0, 1], [1, 0]]


def test_window_lengths_are_exact():
    window = WindowSpec(seconds=10, fps="30000/1001", stride=0.5)
    assert window.num_frames == 300 and window.num_tokens(30) == 300
    assert window.window_starts(11.0, "train") == [0.0, 0.5, 1.0] and window.window_starts(9.99, "train") == []
    with pytest.raises(ValueError, match="clip.fps"):
        WindowSpec(seconds=1, fps=0)
    with pytest.raises(ValueError, match="multiples of 4"):
        WindowSpec(seconds=1, height=130)


@pytest.mark.parametrize("num_frames, rounded", [(50, 4.1667), (41, 3.4167), (18, 1.5), (48, 4.0), (11, 0.9167)])
def test_a_length_in_frames_is_the_length_that_rounded_seconds_gave(num_frames, rounded):
    """Frames, music tokens and motion frames of both are equal; a clip of exactly this length holds one window."""
    exact, approximate = WindowSpec(num_frames=num_frames, fps=12), WindowSpec(seconds=rounded, fps=12)
    assert exact.num_frames == approximate.num_frames == num_frames
    assert exact.num_tokens(30) == approximate.num_tokens(30)
    assert exact.window_starts(num_frames / 12, "train") == [0.0]
    assert abs(exact.seconds - rounded) < 1e-4


@pytest.mark.parametrize("length", [{}, {"seconds": 4.0, "num_frames": 48}, {"num_frames": 0}, {"num_frames": 4.5}])
def test_a_window_has_exactly_one_length(length):
    with pytest.raises(ValueError, match=r"^[^\n]*clip\.num_frames[^\n]*$"):
        WindowSpec(**length)


class Reader(LightningModule):
    """Records the keys of its batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batch_keys = []

    def training_step(self, batch, index):
        self.batch_keys.append(batch["key"])
        return self.weight * batch["motion"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_trainer_continues_with_the_next_batch(tmp_path, accumulate):
    def fit(steps, ckpt_path=None):
        model, quiet = Reader(), {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            accumulate_grad_batches=accumulate,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            **quiet,
        )
        data = DanceData(Numbers(), None, {"motion": ("motion",)}, batch_size=4, window=WINDOW, seed=9)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return model, trainer

    whole, _ = fit(6)
    first_half, trainer = fit(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second_half, _ = fit(6, tmp_path / "half.ckpt")
    assert len(whole.batch_keys) == 6 * accumulate
    assert first_half.batch_keys + second_half.batch_keys == whole.batch_keys
