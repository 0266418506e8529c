"""C files of int8 nets on Cortex-M boards that QEMU emulates: flash, RAM, instructions per image, and equal scores."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from zoo.benchmarks.rounds import checkpoints, data_of
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product
from zoo.errors import BadInput, ZooError
from zoo.export.c_source import FRACTION, KERNELS, Source
from zoo.export.format_c import Format, c_source
from zoo.export.read_export import pixels
from zoo.paths import EXPORTS
from zoo.quantize.exact_program import ExactProgram
from zoo.quantize.graph_ir import QuantizedNet
from zoo.records.json_files import read_exports

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
NUM_IMAGES = 10
STACK_BYTES = 2**17  # beyond the start of the RAM, in which the arena is too; boards have 512 kB and more
INSTRUCTIONS = 2_000_000  # in the loop that mcu.c times


@dataclass(frozen=True)
class Board:
    core: str
    machine: str
    ram: int  # address


BOARDS = (
    Board("cortex-m4", "mps2-an386", 0x20000000),
    Board("cortex-m7", "mps2-an500", 0x20000000),
    Board("cortex-m55", "mps3-an547", 0x30000000),
)


def mcu_suite(cfg: DictConfig) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the figures of each board for the net or nets `cfg.checkpoint`, which were exported with format=c."""
    for tool in (COMPILER, SIZE, EMULATOR):
        if not shutil.which(tool):
            raise BadInput(f"suite=mcu needs {tool}, of the Debian packages gcc-arm-none-eabi and qemu-system-arm")
    if not cfg.checkpoint:
        raise BadInput("suite=mcu needs checkpoint=FILE, a net in int8 that was exported with format=c")
    for path in checkpoints(cfg):
        product = read_product(path)
        source, accuracy = _exported(product)
        images, _ = next(iter(data_of(product.facts, cfg, NUM_IMAGES).loader("test", "cpu")))
        for board in BOARDS:
            figures = _on_board(board, product, source, images)
            name = f"{product.facts['config']['choices']['model']}, {board.core}"
            yield {name: {**figures, "num_images": NUM_IMAGES, "test_accuracy": accuracy}}


def _exported(product: Product) -> tuple[Source, float]:
    """Return the C file of a net and its accuracy; raise BadInput unless this very file was verified."""
    folder, source = product.path.parent, c_source(product)
    file = folder / Format.file
    if (folder / EXPORTS).exists() and file.exists() and file.read_text() == source.text:
        for row in read_exports(folder / EXPORTS)["rows"]:
            if file.name in row["files"]:
                return source, row["accuracy"]
    raise BadInput(f"{file} is not the verified C file of {product.path}: run scripts/export.py format=c first")


def _on_board(board: Board, product: Product, source: Source, images: Tensor) -> dict[str, Any]:
    """Compile the file for a board, run it on images, and return the figures; raise ZooError for other scores."""
    net, facts = load_model(product), product.facts["data"]
    assert isinstance(net, QuantizedNet)
    expected = torch.round(ExactProgram(net).run(images) * FRACTION).long()
    mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("mean", "std"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "model.c").write_text(source.text)
        (folder / "images.bin").write_bytes(pixels(images, mean, std).permute(0, 2, 3, 1).numpy().tobytes())
        figures = _compile(folder, board, images[0].numel(), len(facts["classes"]))
        line = [EMULATOR, "-M", board.machine, "-nographic", "-semihosting-config", "enable=on,target=native"]
        loop, *lines = _run(folder, *line, "-icount", "shift=0", "-kernel", "program").splitlines()
    found = torch.tensor([[int(word) for word in line.split()] for line in lines])
    if not torch.equal(found[:, 1:], expected):
        raise ZooError(f"{board.core} computes other scores than the int8 program")
    ticks = float(found[:, 0].double().mean())
    return {**figures, "million_instructions": ticks * INSTRUCTIONS / int(loop) / 1e6}


def _compile(folder: Path, board: Board, image_bytes: int, num_classes: int) -> dict[str, Any]:
    """Compile model.c and mcu.c to a program, and return the bytes of model.c alone in flash and in RAM."""
    flags = ["-O2", f"-mcpu={board.core}", "-mthumb", "-Wall", "-Wextra", "-Werror"]
    _run(folder, COMPILER, *flags, "-std=c99", "-c", "model.c")
    code, data, zeros = map(int, _run(folder, SIZE, "model.o").splitlines()[1].split()[:3])
    stack = board.ram + 4096 * -(-zeros // 4096) + STACK_BYTES
    sizes = {"IMAGE_BYTES": image_bytes, "NUM_CLASSES": num_classes, "STACK": stack}
    places = f"-Wl,--section-start=.vectors=0,-Ttext=0x400,-Tbss={board.ram:#x},--entry=0x400"
    program = [
        *(f"-D{key}={value}" for key, value in sizes.items()),
        str(KERNELS / "mcu.c"),
        "model.o",
        "-o",
        "program",
    ]
    _run(folder, COMPILER, *flags, "-nostartfiles", places, *program)
    return {"flash_bytes": code + data, "ram_bytes": data + zeros}


def _run(folder: Path, *line: str) -> str:
    """Run a tool and return its output and messages, since QEMU writes what a board prints to stderr."""
    pipe, out = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(line, cwd=folder, stdout=pipe, stderr=out, stdin=subprocess.DEVNULL, text=True)
    if done.returncode:
        raise ZooError(f"{line[0]} failed: {(done.stdout.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout
