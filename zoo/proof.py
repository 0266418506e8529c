"""What an exported file must show before it may stay: read by its own runtime, in a process of its own, it is the net.

`python -m zoo.proof FILE THREADS` is that process for files that only the zoo can read.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.checkpoint import read_product
from zoo.errors import ZooError
from zoo.export import alone
from zoo.nets import net_of

# By which a logit may differ, as a share of the largest logit or, where that is below 1, of 1. In int8 they differ by
# whole steps, and accuracy decides.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": float("inf")}
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Source:
    """What a file is held against: the logits of its checkpoint for some batches of images, and its accuracy."""

    batches: Batches
    logits: list[Tensor]
    accuracy: float

    @property
    def largest(self) -> float:
        return max(float(logits.abs().max()) for logits in self.logits)


@dataclass(frozen=True)
class Proof:
    """What a file was found to be, in its own runtime; latencies are of batches of 1 and 64, in ms."""

    size_bytes: int
    accuracy: float
    largest_difference: float
    latency_ms: dict[str, dict[str, float]]
    peak_bytes: int
    modules: list[str]


def source_of(net: nn.Module, batches: Batches) -> Source:
    """Compute what files are to be held against, with a net in eval mode on the CPU."""
    with torch.inference_mode():
        logits = [net(images).float() for images, _ in batches()]
    return Source(batches, logits, _accuracy(logits, batches))


def _accuracy(logits: Iterable[Tensor], batches: Batches) -> float:
    hits = [answer.argmax(1) == labels for answer, (_, labels) in zip(logits, batches(), strict=True)]
    return float(torch.cat(hits).double().mean())


def prove(path: Path, source: Source, prepare: Callable[[Tensor], Tensor]) -> Proof:
    """Have a file compute the batches in a process of its own; `prepare` gives what it takes for normalised images.

    ZooError where it cannot.
    """
    images = (prepare(images).numpy() for images, _ in source.batches())
    answers, measured = _ask(path, images)
    logits = [torch.from_numpy(answer).float() for answer in answers]
    difference = 0.0
    for ours, theirs in zip(source.logits, logits, strict=True):
        if ours.shape != theirs.shape or not theirs.isfinite().all():
            raise ZooError(f"it gives {tuple(theirs.shape)} numbers, or none, where the net gives {tuple(ours.shape)}")
        difference = max(difference, float((ours - theirs).abs().max()))
    return Proof(path.stat().st_size, _accuracy(logits, source.batches), difference, **measured)


def _ask(path: Path, arrays: Iterable[np.ndarray]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Give a file's answers to arrays of images, and what its process measured; ZooError with that process's reason."""
    foreign = path.suffix in (".onnx", ".pt2")
    # Without the folder of its own, where onnx.py is not the package.
    program = ["-P", alone.__file__] if foreign else ["-m", "zoo.proof"]
    line = [sys.executable, *program, str(path.resolve()), str(torch.get_num_threads())]
    answers: list[np.ndarray] = []
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=Path(__file__).parents[1]
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                for array in arrays:
                    alone.send(process.stdin, array)
                    answer = alone.receive(process.stdout)
                    if answer is None:
                        break
                    answers.append(answer)
                process.stdin.close()
                measured = process.stdout.read()
            except BrokenPipeError:
                measured = b""
            except BaseException:
                process.kill()
                raise
        if process.returncode or not measured:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise ZooError(f"its runtime cannot compute it: {said[-1]}")
    return answers, json.loads(measured)


def refusal(proof: Proof, source: Source, precision: str, smaller_than: int | None, max_drop: float) -> str | None:
    """Say in a sentence why a file must not stay, or nothing.

    `smaller_than` are the bytes that it claims to be below; `max_drop` are the points of accuracy that it may lose.
    """
    limit = TOLERANCES[precision] * max(1.0, source.largest)
    drop = 100 * (source.accuracy - proof.accuracy)
    if proof.largest_difference > limit:
        return f"a logit differs from the checkpoint's by {proof.largest_difference:.2g}, where {limit:.2g} is allowed"
    if drop > max_drop:
        return f"it loses {drop:.2f} points of accuracy, where max_drop={max_drop:g} are allowed"
    if smaller_than is not None and proof.size_bytes >= smaller_than:
        return f"it takes {proof.size_bytes:,} bytes, and less than the weights' {smaller_than:,} was claimed"
    return None


def _serve_product(path: str, threads: int) -> None:
    torch.set_num_threads(threads)
    net = net_of(read_product(path)).eval()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(images)).numpy()

    alone.serve(run)


if __name__ == "__main__":
    _serve_product(sys.argv[1], int(sys.argv[2]))
