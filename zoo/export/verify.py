"""Verify an exported file before it is kept: run in a separate process by its own runtime, it must match the net.

`python -m zoo.export.verify THREADS FILE [PACKAGE ...]` is that process for files that only the zoo can read, which may
name classes of these packages.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product
from zoo.data.module import ResidentData
from zoo.data.sequences import SequenceData
from zoo.errors import ZooError
from zoo.export import worker
from zoo.export.export_format import openers
from zoo.export.parts import Encoder, Step
from zoo.export.read_export import read_export
from zoo.export.runtime import Run
from zoo.instantiate import trusted_packages, trusting
from zoo.measure.accuracy import points_lost
from zoo.measure.evaluation import predictions
from zoo.measure.number_scores import share_right
from zoo.tasks.transcribe import transcribe


@dataclass(frozen=True)
class Answers:
    """The outputs of a net for the test samples: logits by batch, and its accuracy.

    That is 1 - WER for sequences, and R2 for numbers.
    """

    logits: list[Tensor]
    accuracy: float

    @property
    def largest(self) -> float:
        return max(float(logits.abs().max()) for logits in self.logits)


@dataclass(frozen=True)
class Verification:
    """The measurements of a format's files in their own runtime.

    Latencies, in ms, are for batches of 1 and 64: of images, or of one step of a sequence net.
    """

    size_bytes: int
    accuracy: float
    largest_difference: float
    latency_ms: dict[str, dict[str, float]]
    peak_bytes: int
    modules: list[str]
    arena_bytes: int | None = None  # of a C file: the static array of all activations
    constant_bytes: int | None = None  # of a C file: its weights and tables, without code


@torch.inference_mode()
def answers_of(net: nn.Module, data: ResidentData) -> Answers:
    """Run a net in eval mode on the CPU on all test samples; a sequence net step by step along the true tokens."""
    batches = data.loader("test", "cpu")
    if isinstance(data, SequenceData):
        logits = [_logits_of_steps(net, source, target) for source, target, _ in batches]
        return Answers(logits, transcribe(net, data, "test", torch.device("cpu"))["accuracy"])
    found = predictions(net, batches)
    outputs, labels = zip(*found, strict=True)
    return Answers(list(outputs), share_right(torch.cat(outputs), torch.cat(labels), data.number_scale))


def _logits_of_steps(net: Any, source: Tensor, target: Tensor) -> Tensor:
    state, found = net.begin(source), []
    for tokens in target[:, :-1].unbind(1):
        logits, state = net.step(tokens, state)
        found.append(logits.float())
    return torch.stack(found, 1)


@contextmanager
def running(paths: Sequence[Path], runs_alone: bool, runtime: str = "") -> Iterator[tuple[list[Run], dict[str, Any]]]:
    """Yield a function for each file that runs it in a separate process, and at the end what that process measured.

    The process is worker.py without the zoo, if the files run alone, or else the zoo. `runtime` is for formats that
    several runtimes compute.

    Raises ZooError with the reason if the process fails.
    """
    # -P keeps its own folder off sys.path, where onnx.py would shadow the package.
    program = ["-P", worker.__file__] if runs_alone else ["-m", "zoo.export.verify"]
    line = [sys.executable, *program, str(torch.get_num_threads()), *(str(path.resolve()) for path in paths)]
    root, pipe, environment = Path(__file__).parents[2], subprocess.PIPE, {**os.environ, worker.RUNTIME: runtime}
    if not runs_alone and trusted_packages():
        line += trusted_packages()
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    measured: dict[str, Any] = {}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=errors, cwd=root, env=environment) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def failed() -> ZooError:
            process.wait()
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            return ZooError(f"its runtime cannot compute it: {lines[-1]}")

        def of_part(number: int) -> Run:
            def run(*inputs: Tensor) -> tuple[Tensor, ...]:
                try:
                    worker.send(asked, [np.array(number), *(tensor.numpy() for tensor in inputs)])
                except BrokenPipeError:
                    raise failed() from None
                arrays = worker.receive(answered)
                if not arrays:
                    raise failed()
                return tuple(torch.from_numpy(array) for array in arrays)

            return run

        try:
            yield [of_part(0), of_part(1)], measured
            asked.close()
            text = answered.read()
            if process.wait():
                raise failed()
            measured |= json.loads(text)
        except BaseException:
            process.kill()
            raise


def compare_answers(found: Answers, source: Answers, paths: Sequence[Path], measured: dict[str, Any]) -> Verification:
    """Compare the answers of files with those of the checkpoint; raise ZooError for other shapes or NaN."""
    difference = 0.0
    for ours, theirs in zip(source.logits, found.logits, strict=True):
        if ours.shape != theirs.shape or not theirs.isfinite().all():
            raise ZooError(f"it returns {tuple(theirs.shape)} or NaN, expected finite {tuple(ours.shape)}")
        difference = max(difference, float((ours - theirs).abs().max()))
    size_bytes = sum(path.stat().st_size for path in paths)
    return Verification(size_bytes, found.accuracy, difference, **measured)


def rejection_reason(
    proof: Verification, source: Answers, tolerance: float, smaller_than: int | None, max_drop: float
) -> str | None:
    """Return the reason to refuse files in one sentence, or None.

    `tolerance` is the allowed difference of a logit relative to the largest, `smaller_than` a bound on the bytes, and
    `max_drop` the points of accuracy that may be lost.
    """
    limit = tolerance * max(1.0, source.largest)
    drop = points_lost(source.accuracy, proof.accuracy)
    if proof.largest_difference > limit:
        return f"a logit differs from the checkpoint's by {proof.largest_difference:.2g}, above {limit:.2g}"
    if drop > max_drop:
        return f"it loses {drop:.2f} points of accuracy, more than max_drop={max_drop:g}"
    if smaller_than is not None and proof.size_bytes >= smaller_than:
        return f"it takes {proof.size_bytes:,} bytes, expected fewer than the weights' {smaller_than:,}"
    return None


def _serve(threads: int, path: str) -> None:
    """Run a file that the zoo reads, on behalf of the parent process."""
    torch.set_num_threads(threads)
    suffix = Path(path).suffix
    net = read_export(Path(path)).net if suffix in openers() else load_model(read_product(path)).eval()
    nets = [Encoder(net), Step(net)] if hasattr(net, "begin") else [net]

    def run_of(one: nn.Module) -> worker.Run:
        def run(arrays: worker.Arrays) -> worker.Arrays:
            with torch.inference_mode():
                found = one(*map(torch.from_numpy, arrays))
            return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]

        return run

    worker.serve([run_of(one) for one in nets])


if __name__ == "__main__":
    with trusting(sys.argv[3:]):
        _serve(int(sys.argv[1]), sys.argv[2])
