"""NVIDIA DALI on the CPU, as another contender of suite=loader, if it is installed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class DaliLoader:
    """Yield an epoch of batches: crops of JPEG files, resized to `side` px with antialiasing, flipped, normalised.

    `batches` has for each batch its files, and (n, 4) tops, lefts, heights and widths. `workers` are threads.
    """

    def __init__(
        self,
        batches: Sequence[tuple[list[str], np.ndarray]],
        side: int,
        mean: Sequence[float],
        std: Sequence[float],
        workers: int,
    ) -> None:
        from nvidia.dali import fn, pipeline_def, types

        files = [file for names, _ in batches for file in names]
        rectangles = [(crops[:, :2].astype(np.float32), crops[:, 2:].astype(np.float32)) for _, crops in batches]

        in_turn = {"exec_pipelined": False, "exec_async": False}  # no work ahead, while others are timed

        @pipeline_def(batch_size=len(batches[0][0]), num_threads=workers, device_id=None, **in_turn)
        def pipeline() -> Any:
            content, labels = fn.readers.file(files=files, name="files")
            anchors, shapes = fn.external_source(source=rectangles, num_outputs=2, cycle=True)
            settings = {"axis_names": "HW", "normalized_anchor": False, "normalized_shape": False}
            images = fn.decoders.image_slice(content, anchors, shapes, **settings)
            images = fn.resize(images, size=[side, side], antialias=True)
            mirror = fn.random.coin_flip()
            return fn.crop_mirror_normalize(
                images, mirror=mirror, mean=list(mean), std=list(std), dtype=types.FLOAT, output_layout="CHW"
            ), labels

        self.pipeline, self.num = pipeline(), len(batches)
        self.pipeline.build()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.num):
            images, labels = self.pipeline.run()
            yield torch.from_numpy(images.as_array()), torch.from_numpy(labels.as_array())
