"""Compute an exported file in a process that knows nothing of the zoo: `python alone.py FILE THREADS`.

Arrays of images come in on stdin and arrays of logits go out on stdout. Where stdin ends, a line of JSON says how fast
that is, what memory it took, and which runtimes were in the process.
"""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import IO

import numpy as np

BATCHES = (1, 64)  # that are timed
WARM_UP = 5  # calls that are not
LEAST_CALLS, MOST_CALLS, ENOUGH_SECONDS = 10, 200, 2.0
Run = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    serve((onnx_runtime if path.endswith(".onnx") else torch_alone)(path, threads))


def onnx_runtime(path: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def torch_alone(path: str, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    net = torch.export.load(path).module()  # the caller wrote it a moment ago

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(images)).numpy()

    return run


def serve(run: Run) -> None:
    """Answer arrays with arrays until there are no more, then measure with the last."""
    answers: IO[bytes] = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints shall not come between them
    while (images := receive(sys.stdin.buffer)) is not None:
        send(answers, run(images))
        last = images
    timed = {batch: time_ms(run, np.repeat(last[:1], batch, 0)) for batch in BATCHES}
    modules = [name for name in ("onnxruntime", "torch", "zoo") if name in sys.modules]
    answers.write(json.dumps({"latency_ms": timed, "peak_bytes": peak_bytes(), "modules": modules}).encode())
    answers.close()


def time_ms(run: Run, images: np.ndarray) -> dict[str, float]:
    """Give the median and the 95th percentile of the time that a batch takes."""
    seconds: list[float] = []
    for call in range(WARM_UP + MOST_CALLS):
        start = time.perf_counter()
        run(images)
        if call >= WARM_UP:
            seconds.append(time.perf_counter() - start)
        if len(seconds) >= LEAST_CALLS and sum(seconds) > ENOUGH_SECONDS:
            break
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": 1000 * float(p50), "p95": 1000 * float(p95)}


def peak_bytes() -> int:
    """Ask Linux for the most memory this process had; getrusage would count that of the process it was started by."""
    with open("/proc/self/status") as lines:
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def send(file: IO[bytes], array: np.ndarray) -> None:
    """Write an array, behind its number of bytes."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    file.write(content.tell().to_bytes(8, "little"))
    file.write(content.getbuffer())
    file.flush()


def receive(file: IO[bytes]) -> np.ndarray | None:
    """Read the next array, or None where the other end has closed."""
    size = file.read(8)
    if not size:
        return None
    return np.load(io.BytesIO(file.read(int.from_bytes(size, "little"))), allow_pickle=False)


if __name__ == "__main__":
    main()
