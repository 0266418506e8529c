"""One trained net in files of several kinds, without training: bytes, accuracy, and seconds to write and to read."""

import contextlib
import functools
import importlib.metadata
import io
import itertools
import lzma
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from zoo.benchmarks.rounds import data_of
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product
from zoo.data.module import ResidentData, Split
from zoo.errors import BadInput
from zoo.export.onnx import translate
from zoo.export.onnx_int8 import quantized
from zoo.export.parts import ExportPart
from zoo.measure import evaluation
from zoo.measure.accuracy import is_right, points_lost
from zoo.packed.packed_file import open_packed, pack
from zoo.paths import PACKED
from zoo.run.pack_product import as_packed, share_at_once
from zoo.run.round_product import round_at_once

MOST_LOST = 0.2  # points of validation accuracy, for each kind of file whose precision can be chosen
NUM_BATCHES = 8  # training batches for curvature, norms and calibration
QP = range(-8, -45, -1)  # NNC's quantization parameters, from coarse to fine; its default is -32
Figures = dict[str, dict[str, Any]]
Weights = Mapping[str, Tensor]


def sizes_suite(cfg: DictConfig) -> Iterator[Figures]:
    """Yield the figures of each kind of file of the image net `cfg.checkpoint`, at equal validation accuracy.

    Rivals are at their best documented setting: NNC (ISO/IEC 15938-17, the package nncodec, if it is installed) with
    dependent quantization, with and without a precision by the size of each layer, whichever is smaller; the packed
    file with shared values, with the fewest bits. int8 has one scale per output channel.
    """
    product = read_product(cfg.checkpoint)
    if "classes" not in product.facts["data"]:
        raise BadInput(f"checkpoint={cfg.checkpoint}: suite=packed compares image nets, and this one reads sequences")
    net = _Net(product, data_of(product.facts, cfg, 500))
    for name, contender in CONTENDERS.items():
        figures = contender(net)
        if figures is not None:
            yield {name: figures}


class _Net:
    """A trained net and its data, on which other weights of the same shapes are tried out."""

    def __init__(self, product: Product, data: ResidentData) -> None:
        self.product, self.data, self.net = product, data, load_model(product).eval()
        self.reference = self.accuracy(product.weights, "val")

    def accuracy(self, weights: Weights, split: Split, net: nn.Module | None = None) -> float:
        net = net or self.net
        net.load_state_dict(dict(weights))
        return evaluation.accuracy(net, self.data.loader(split, "cpu"))

    def is_near(self, weights: Weights) -> bool:
        return points_lost(self.reference, self.accuracy(weights, "val")) <= MOST_LOST

    def figures(
        self,
        write: Callable[[], bytes],
        read: Callable[[bytes], Weights],
        setting: str,
        net: nn.Module | None = None,
    ) -> dict[str, Any]:
        """Measure a file; what counts is the net that is read back from it."""
        start = time.process_time()
        content = write()
        written = time.process_time()
        weights = read(content)
        seconds = {"write_seconds": written - start, "read_seconds": time.process_time() - written}
        accuracy = self.accuracy({**(net or self.net).state_dict(), **weights}, "test", net)
        return {"bytes": len(content), "test_accuracy": accuracy, **seconds, "setting": setting}


def _fp32(one: _Net) -> dict[str, Any]:
    weights = one.product.weights
    return one.figures(lambda: safetensors.torch.save(weights), safetensors.torch.load, "as trained, safetensors")


def _packed(one: _Net, product: Product, setting: str) -> dict[str, Any]:
    def read(content: bytes) -> Weights:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PACKED
            path.write_bytes(content)
            return open_packed(path).weights()

    net = load_model(product).eval()
    return one.figures(lambda: pack(product.weights, product.facts)[0], read, setting, net)


def _rounded(one: _Net) -> dict[str, Any]:
    settings = {"half": False, "fold_norms": True, "bias_bits": 4}
    start = time.process_time()
    product = round_at_once(one.product, one.data, MOST_LOST, NUM_BATCHES, settings)
    seconds = time.process_time() - start
    return _packed(one, product, f"compress=rate, chosen in {seconds:.0f} s of CPU time")


def _shared(one: _Net) -> dict[str, Any] | None:
    for bits in range(1, 9):
        product = share_at_once(one.product, bits, None, "linear", 0.005)
        if one.is_near(product.weights):
            weights, facts = as_packed(one.net, product.weights, product.facts, half=True)
            return _packed(one, Product(product.path, dict(weights), dict(facts)), f"compress=share, {bits} bits")
    return None


def _nnc(one: _Net) -> dict[str, Any] | None:
    try:
        from nncodec.nn import decode as decode_nnc
        from nncodec.nn import encode as encode_nnc
    except ImportError:
        return None
    arrays = {name: w.numpy() for name, w in one.product.weights.items() if w.is_floating_point()}

    def read(content: bytes) -> Weights:
        return {name: torch.from_numpy(np.array(array)) for name, array in decode_nnc(bytearray(content)).items()}

    def encoded(settings: dict[str, Any]) -> bytes:
        with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):  # it leaves a file in the current folder
            return bytes(encode_nnc(dict(arrays), settings))

    version = importlib.metadata.version("nncodec")
    best: tuple[int, Callable[[], bytes], str] | None = None
    for by_size in (False, True):
        for qp in QP:
            settings = {"qp": qp, "use_dq": True, "opt_qp": by_size, "verbose": False}
            write = functools.partial(encoded, settings)
            content = write()
            if one.is_near({**one.product.weights, **read(content)}):
                if best is None or len(content) < best[0]:
                    setting = f"nncodec {version}, qp={qp}, dependent quantization" + (", opt_qp" if by_size else "")
                    best = len(content), write, setting
                break
    return one.figures(best[1], read, best[2]) if best else None


def _int8(one: _Net, packer: Callable[[bytes], bytes], unpacker: Callable[[bytes], bytes], name: str) -> dict[str, Any]:
    weights = one.product.weights
    large = {key for key, weight in weights.items() if weight.ndim > 1 and weight.is_floating_point()}

    def write() -> bytes:
        parts = []
        for key, weight in weights.items():
            if key in large:
                scale = weight.abs().flatten(1).amax(1).clamp_min(1e-12) / 127
                rounded = (weight.flatten(1) / scale[:, None]).round().to(torch.int8)
                parts += [scale.numpy().tobytes(), rounded.numpy().tobytes()]
            else:
                parts.append(weight.numpy().tobytes())
        return packer(b"".join(parts))

    def read(content: bytes) -> Weights:
        left, found = io.BytesIO(unpacker(content)), {}
        for key, weight in weights.items():
            if key in large:
                scale = torch.frombuffer(bytearray(left.read(4 * len(weight))), dtype=torch.float32)
                rounded = torch.frombuffer(bytearray(left.read(weight.numel())), dtype=torch.int8).float()
                found[key] = (rounded.view(len(weight), -1) * scale[:, None]).view(weight.shape)
            else:
                size = weight.numel() * weight.element_size()
                found[key] = torch.frombuffer(bytearray(left.read(size)), dtype=weight.dtype).view(weight.shape)
        return found

    return one.figures(write, read, name)


def _zstd(one: _Net) -> dict[str, Any] | None:
    try:
        import zstandard
    except ImportError:
        return None
    return _int8(one, zstandard.ZstdCompressor(22).compress, zstandard.ZstdDecompressor().decompress, "level 22")


def _onnx_int8(one: _Net) -> dict[str, Any]:
    import onnxruntime

    one.net.load_state_dict(one.product.weights)
    batches = itertools.islice(one.data.loader("train", "cpu"), NUM_BATCHES)
    example = torch.zeros(2, *one.data.example()[0].shape[1:])
    start = time.process_time()
    model = quantized(translate(ExportPart(one.net, (example,))), (images.numpy() for images, _ in batches))
    content = model.SerializeToString()
    written = time.process_time()
    session = onnxruntime.InferenceSession(content)
    read_seconds = time.process_time() - written
    name, hits = session.get_inputs()[0].name, []
    for images, labels in one.data.loader("test", "cpu"):
        hits.append(is_right(torch.from_numpy(session.run(None, {name: images.numpy()})[0]), labels))
    return {
        "bytes": len(content),
        "test_accuracy": float(torch.cat(hits).double().mean()),
        "write_seconds": written - start,
        "read_seconds": read_seconds,
        "setting": "int8 weights by channel, uint8 activations",
    }


CONTENDERS: dict[str, Callable[[_Net], dict[str, Any] | None]] = {
    "fp32": _fp32,
    "packed, rounded": _rounded,
    "packed, shared": _shared,
    "NNC": _nnc,
    "int8, zip": lambda one: _int8(one, lambda content: zlib.compress(content, 9), zlib.decompress, "DEFLATE, level 9"),
    "int8, zstd": _zstd,
    "int8, xz": lambda one: _int8(one, lzma.compress, lzma.decompress, "LZMA, level 6"),
    "int8, ONNX": _onnx_int8,
}
