"""A memory cache of encoded clips or frames, for stages that see the same data many times."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


class LatentCache:
    """Up to `max_items` items, each one or several tensors, kept on the CPU in half precision."""

    def __init__(self, max_items: int):
        self.max_items = max_items
        self._items: dict[Hashable, tuple[Tensor, ...]] = {}

    def __len__(self) -> int:
        return len(self._items)

    @torch.no_grad()
    def get_or_compute(
        self, keys: Sequence[Hashable], compute: Callable[[int], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Return the tensors of all keys, stacked in their order: float32, on the CPU.

        compute: called with the index of a key that is not cached. Its result is rounded to half precision whether it
        is cached or not, so that a resumed run, whose cache is empty, computes with the same numbers.
        """
        items = []
        for index, key in enumerate(keys):
            item = self._items.get(key)
            if item is None:
                item = tuple(tensor.half().cpu() for tensor in compute(index))
                if len(self._items) < self.max_items:
                    self._items[key] = item
            items.append(tuple(tensor.float() for tensor in item))  # CPU autocast cannot stack half precision
        return tuple(torch.stack(tensors) for tensors in zip(*items, strict=True))

    def encode_frames(
        self, encode: Callable[[Tensor], Tensor], frames: Tensor, clip_keys: Sequence[Hashable], frame_indices: Tensor
    ) -> Tensor:
        """Return latents (B, F, C, h, w), float32, of frames (B, F, 3, H, W), cached frame by frame.

        encode: images (N, 3, H, W) -> latents (N, C, h, w). clip_keys: B names; frame_indices (B, F): positions of the
        frames in these clips; together they are the cache's keys.
        """
        images, batch_and_frames = frames.flatten(0, 1), frames.shape[:2]
        if not self.max_items:
            with torch.no_grad():
                return encode(images).float().unflatten(0, batch_and_frames)
        keys = [
            (key, frame_index)
            for key, indices_of_clip in zip(clip_keys, frame_indices.tolist(), strict=True)
            for frame_index in indices_of_clip
        ]
        # one image at a time: batches of uncached images would differ, and with them the rounding, in a resumed run
        (latents,) = self.get_or_compute(keys, lambda index: (encode(images[index, None])[0],))
        return latents.to(frames.device).unflatten(0, batch_and_frames)
