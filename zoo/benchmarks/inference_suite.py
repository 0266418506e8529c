"""Inference on a CPU, in floating point and in int8, with torch, ONNX Runtime and OpenVINO."""

import copy
import functools
import importlib.util
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from zoo.benchmarks.rounds import Contender, Suite, checkpoints, timed
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product
from zoo.checkpoint.stored_config import stored_net
from zoo.compress.context import Context
from zoo.compress.recipe import replay
from zoo.errors import BadInput
from zoo.export.onnx import translate
from zoo.export.onnx_int8 import quantized
from zoo.export.parts import ExportPart
from zoo.export.worker import openvino_settings, session_options
from zoo.instantiate import build
from zoo.measure.compiler import check_compiler
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.int8_speed import why_int8_is_slower
from zoo.quantize.pt2e import lower, program_of, sums_int8_exactly, traced
from zoo.quantize.ptq_int8 import ptq
from zoo.ranges import height_width
from zoo.run.model import build_bare_model

if TYPE_CHECKING:
    import onnx

CALLS = 10  # per round, after a warm-up call; the median counts
PAUSE = 0.25  # seconds before a turn, in which the threads of the one before stop waiting actively for work
log = logging.getLogger("zoo")
Forward = Callable[[Tensor], Any]


def inference_suite(cfg: DictConfig) -> Suite:
    """Time the forward pass of a batch in fp32 and in int8, with torch and other runtimes on as many threads.

    Each runtime waits for work as it does by default, and starts when the threads of the others sleep. ONNX Runtime and
    OpenVINO execute the same graphs; OpenVINO, if it is installed, has its hint for latency, and computes fp32 in fp32.
    The net is that of the config, with random weights; with compress=prune_channels, the pruned net is measured as
    well. `cfg.checkpoint` measures the nets of product files instead; if one of these is in int8, its float contenders
    have random weights. The baseline is the first net in fp32, compiled by Inductor.
    """
    check_compiler("suite=inference")
    if cfg.checkpoint:
        nets = [_of_product(Path(path), cfg.data.batch_size) for path in checkpoints(cfg)]
    else:
        images, net = _noise(cfg.data, cfg.data.batch_size), build_bare_model(cfg.model)
        nets = [("", net, _int8(net, images[:1]), images)]
        if pruning := cfg.compress.before_fit.get("channels"):
            pruned = copy.deepcopy(net)
            prune = build(pruning, "compress.before_fit.channels")
            prune(pruned, Context((images[:1].to("meta"),)), repair="none")  # its weights are random
            nets.append(("pruned: ", pruned, _int8(pruned, images[:1]), images))
    if not (compiles_int8 := sums_int8_exactly()):
        log.warning("int8 is not compiled: this CPU has no VNNI, without which Inductor's results differ.")
    contenders = {
        title + name: contender
        for title, net, int8, images in nets
        for name, contender in _contenders(net, int8, images).items()
        if compiles_int8 or name != "int8 compiled"
    }
    floats = {title: net for title, net, _, _ in nets}
    return Suite(contenders, cfg.data.batch_size, verdict=lambda medians: verdicts(medians, floats))


def verdicts(medians: Mapping[str, float], nets: Mapping[str, nn.Module]) -> list[str]:
    """Return sentences: what is fastest for each net, by how much, and why int8 is not, where it is not.

    Args:
        medians: seconds of each contender; its name begins with the title of its net.
        nets: float nets by title.
    """
    sentences = []
    for title, net in nets.items():
        named = {name.rpartition(": ")[2]: seconds for name, seconds in medians.items() if _title(name) == title}
        if not named:
            continue
        fastest = min(named, key=named.__getitem__)
        found = f"{title}{fastest} is fastest"
        for kind in ("fp32", "int8"):
            others = [name for name in named if kind in name]
            if others and kind not in fastest:
                next_best = min(others, key=named.__getitem__)
                found += f", {named[next_best] / named[fastest]:.2f} times as fast as {next_best}"
                found += f". {why_int8_is_slower(net)}" * (kind == "int8")
        sentences.append(found)
    return sentences


def _title(name: str) -> str:
    return "".join(name.rpartition(": ")[:2])


def _of_product(path: Path, batch_size: int) -> tuple[str, nn.Module, nn.Module, Tensor]:
    product = read_product(path)
    config = product.facts["config"]
    images, net = _noise(config["data"], batch_size), load_model(product)
    if program_of(product.facts["recipe"]):
        net, int8 = stored_net(config["model"]), net
        replay(net, product.facts["recipe"])
    else:
        int8 = _int8(net, images[:1])
    whole = path.resolve()
    title = whole.parent if path.stem == "model" else whole.with_suffix("")
    return f"{'/'.join(title.parts[-2:])}: ", net, int8, images


def _noise(data: Mapping[str, Any], batch_size: int) -> Tensor:
    if "image_size" not in data:
        raise BadInput("suite=inference is for image nets, and these data are sequences")
    shape = (batch_size, data["in_channels"], *height_width(data["image_size"]))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _int8(net: nn.Module, image: Tensor) -> nn.Module:
    """Quantize a net with calibration on noise, which is sufficient for timing."""
    return deserialize(*ptq(traced(net, (image.to("meta"),)), [(image, image)], 1), "the net")


def _contenders(net: nn.Module, int8: nn.Module, images: Tensor) -> dict[str, Contender]:
    net = net.eval().to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    # Traced first, because tracing makes torch discard everything it has compiled, even of other nets.
    graph = translate(ExportPart(net, (torch.zeros(2, *images.shape[1:]),)))

    def int8_graph() -> "onnx.ModelProto":
        return quantized(copy.deepcopy(graph), [images.contiguous().numpy()])

    ready: dict[str, Callable[[], Forward]] = {
        "fp32 compiled": lambda: _compiled(net, images),
        "fp32 eager": lambda: net,
        "int8 compiled": lambda: _compiled(int8, images),
        "ONNX Runtime fp32": lambda: _onnx_runtime(graph),
        "ONNX Runtime int8": lambda: _onnx_runtime(int8_graph()),
    }
    if importlib.util.find_spec("openvino"):
        ready["OpenVINO fp32"] = lambda: _openvino(graph)
        ready["OpenVINO int8"] = lambda: _openvino(int8_graph())
    return {name: _contender(make, images) for name, make in ready.items()}


def _contender(make: Callable[[], Forward], images: Tensor) -> Contender:
    prepared = functools.cache(make)  # in the first round, which is not counted

    def forward() -> float:
        with torch.no_grad():  # not inference mode, which would cause a recompilation
            run = prepared()
            time.sleep(PAUSE)
            run(images)
            return statistics.median(timed(lambda: run(images)) for _ in range(CALLS))

    return forward


def _compiled(net: nn.Module, images: Tensor) -> nn.Module:
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    lower(net, images)
    return net


def _onnx_runtime(model: "onnx.ModelProto") -> Forward:
    import onnxruntime

    settings = session_options(torch.get_num_threads())
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.contiguous().numpy()})


def _openvino(model: "onnx.ModelProto") -> Forward:
    import openvino

    core, settings = openvino.Core(), openvino_settings(torch.get_num_threads())
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    return lambda images: compiled([images.contiguous().numpy()])
