"""Run exported files in a process without the zoo: `python worker.py THREADS FILE [FILE]`.

ONNX Runtime computes .onnx files, or OpenVINO if the environment variable ZOO_RUNTIME names it.

Reads the number of a file and arrays for its graph from stdin, and writes arrays to stdout. When stdin ends, writes a
line of JSON with the latency of the last graph, the memory of the process, and the runtimes it has loaded.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

BATCHES = (1, 64)  # to time
TO_NOTE = ("executorch", "onnxruntime", "openvino", "timm", "torch", "torchvision", "zoo")  # if they are loaded
RUNTIME, OPENVINO = "ZOO_RUNTIME", "openvino"
WARM_UP = 5  # untimed calls
LEAST_CALLS, MOST_CALLS, ENOUGH_SECONDS = 10, 200, 2.0
C_FLAGS = ("-O3", "-std=c99", "-Wall", "-Wextra", "-Werror", "-DZOO_MAIN")
Arrays = list[np.ndarray]
Run = Callable[[Arrays], Arrays]


def main() -> None:
    threads, *paths = sys.argv[1:]
    if paths[0].endswith(".c"):
        with compiled(paths[0]) as (run, pid, sizes):
            serve([run], pid, {name: sizes[name.upper()] for name in ("arena_bytes", "constant_bytes")})
        return
    onnx = openvino_alone if os.environ.get(RUNTIME) == OPENVINO else onnx_runtime
    kinds = {"onnx": onnx, "pte": executorch_alone, "safetensors": library_alone}
    serve([kinds.get(path.rpartition(".")[2], torch_alone)(path, int(threads)) for path in paths])


def onnx_runtime(path: str, threads: int) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def session_options(threads: int) -> "onnxruntime.SessionOptions":
    """Return the options of every ONNX Runtime session in the zoo."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    with open("/proc/cpuinfo") as lines:
        if not has_vnni(lines):  # int8 sums would saturate; with VNNI this would only cost time
            options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def openvino_alone(path: str, threads: int) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", openvino_settings(threads))
    return lambda arrays: [one.copy() for one in compiled(arrays).to_tuple()]


def openvino_settings(threads: int) -> dict[str, str | int]:
    """Return the settings with which OpenVINO compiles every net; without `f32` it may compute in bfloat16."""
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}


def has_vnni(cpuinfo: Iterable[str]) -> bool:
    """Return whether a CPU, according to the lines of /proc/cpuinfo, sums int8 products in 32 bits."""
    flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)


def torch_alone(path: str, threads: int) -> Run:
    import torch
    import torch._inductor

    torch.set_num_threads(threads)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        graph = next((archive.read(name) for name in names if name.endswith("/models/model.json")), b"")
    if b"quantized_decomposed" in graph:
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers what torch.export.load looks up
    # Trusted: the caller has just written it.
    net = torch.export.load(path).module() if graph else torch._inductor.aoti_load_package(path)

    def run(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            found = net(*map(torch.from_numpy, arrays))
        return [one.numpy() for one in ((found,) if isinstance(found, torch.Tensor) else found)]

    return run


def executorch_alone(path: str, threads: int) -> Run:
    import executorch.kernels.quantized  # noqa: F401  computes what XNNPACK leaves of an int8 net
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(path).load_method("forward")

    def run(arrays: Arrays) -> Arrays:
        images = torch.from_numpy(arrays[0])
        return [torch.cat([method.execute([image])[0] for image in images.split(1)]).numpy()]

    return run


def library_alone(path: str, threads: int) -> Run:
    """Build the net that a file of weights names, by torchvision or timm, and load the weights strictly."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    name, arguments = facts["architecture"], json.loads(facts["arguments"])
    if facts["library"] == "timm":
        import timm

        net = timm.create_model(name, pretrained=False, **arguments)
    else:
        import torchvision

        net = torchvision.models.get_model(name, weights=None, **arguments)
    net.load_state_dict(load_file(path), strict=True)
    net.eval()

    def run(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            return [net(torch.from_numpy(arrays[0])).numpy()]

    return run


def c_compiler() -> str:
    return os.environ.get("CC", "cc")


@contextmanager
def compiled(path: str) -> Iterator[tuple[Run, int, dict[str, int]]]:
    """Compile a C file of the zoo and start the program; yield what runs it, its process and the sizes it defines."""
    text = Path(path).read_text()
    sizes = {name: int(size) for name, size in re.findall(r"^#define ZOO_(\w+) (\d+)$", text, re.MULTILINE)}
    with tempfile.TemporaryDirectory() as place:
        program = f"{place}/program"
        done = subprocess.run([c_compiler(), *C_FLAGS, path, "-o", program], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(next((line for line in done.stderr.splitlines() if "error" in line), "not compiled"))
        started = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with started as process:
        try:
            yield _asking(process, sizes["SCORES_PER_LOGIT"]), process.pid, sizes
        finally:
            process.kill()


def _asking(process: "subprocess.Popen[bytes]", scores_per_logit: int) -> Run:
    """Return what sends images to a program, row by row with channels together, and reads a line of scores of each."""
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answered = process.stdin, process.stdout

    def run(arrays: Arrays) -> Arrays:
        lines = []
        for image in arrays[0].transpose(0, 2, 3, 1):
            asked.write(image.tobytes())
            asked.flush()
            lines.append([int(word) for word in answered.readline().split()])
        return [np.array(lines, np.float64) / scores_per_logit]

    return run


def serve(runs: list[Run], pid: int | str = "self", sizes: dict[str, int] | None = None) -> None:
    """Answer arrays with arrays until stdin ends, then measure with the last ones; `pid` computes them."""
    answers: IO[bytes] = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps anything that libraries print out of the answers
    while request := receive(sys.stdin.buffer):
        which, *arrays = request
        send(answers, runs[int(which)](arrays))
    timed = {batch: time_ms(runs[-1], [np.repeat(array[:1], batch, 0) for array in arrays]) for batch in BATCHES}
    modules = [name for name in TO_NOTE if name in sys.modules]
    measured = {"latency_ms": timed, "peak_bytes": peak_bytes(pid), "modules": modules, **(sizes or {})}
    answers.write(json.dumps(measured).encode())
    answers.close()


def time_ms(run: Run, arrays: Arrays) -> dict[str, float]:
    """Return the median and the 95th percentile of the time per batch."""
    seconds: list[float] = []
    for call in range(WARM_UP + MOST_CALLS):
        start = time.perf_counter()
        run(arrays)
        if call >= WARM_UP:
            seconds.append(time.perf_counter() - start)
        if len(seconds) >= LEAST_CALLS and sum(seconds) > ENOUGH_SECONDS:
            break
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": 1000 * float(p50), "p95": 1000 * float(p95)}


def peak_bytes(pid: int | str = "self") -> int:
    """Return the peak memory of a process from Linux; getrusage would include that of its parent process."""
    with open(f"/proc/{pid}/status") as lines:
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def send(file: IO[bytes], arrays: Arrays) -> None:
    """Write arrays, preceded by their number of bytes."""
    content = io.BytesIO()
    np.savez(content, *arrays)
    file.write(content.tell().to_bytes(8, "little"))
    file.write(content.getbuffer())
    file.flush()


def receive(file: IO[bytes]) -> Arrays:
    """Read the next arrays; return none if the other end has closed."""
    size = int.from_bytes(file.read(8), "little")
    if not size:
        return []
    with np.load(io.BytesIO(file.read(size)), allow_pickle=False) as arrays:
        return list(arrays.values())


if __name__ == "__main__":
    main()
