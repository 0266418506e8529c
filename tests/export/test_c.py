"""format=c: C files have the integers of their int8 programs, and what C cannot express is refused."""

import subprocess

import pytest
import torch

from zoo.export.c_program import Translation
from zoo.export.c_source import FRACTION, source_of
from zoo.export.worker import C_FLAGS
from zoo.quantize.exact_program import ExactProgram
from zoo.quantize.graph_ir import deserialize

HOSTILE = ['a "quoted" */ name', "line\nbreak \\", "what??/", "%s %n", "ü猫\x00\udc80"]
SHAPE = (2, 9, 9)
PIXELS = (torch.arange(256.0) - 100) * torch.tensor([[0.02], [0.03]])


class Program:
    """An int8 program, written one layer after the other; results are numbered."""

    def __init__(self):
        self.steps, self.tensors = [], {}
        self.random = torch.Generator().manual_seed(0)

    def add(self, name, *arguments):
        self.steps.append([name, *arguments])
        return {"result": len(self.steps) - 1}

    def rounded(self, x, scale, zero_point=0):
        limits = float(torch.tensor(scale)), zero_point, 0, 255, {"dtype": "uint8"}
        levels = self.add("quantized_decomposed.quantize_per_tensor.default", x, *limits)
        return self.add("quantized_decomposed.dequantize_per_tensor.default", levels, *limits)

    def layer(self, operator, x, shape, *arguments):
        """Add a convolution or a linear layer with random weights."""
        name = f'layer {len(self.tensors)} */ "'
        kinds = {
            "": torch.randint(-128, 128, shape, dtype=torch.int8, generator=self.random),
            "_scale": torch.rand(shape[0], generator=self.random) * 0.004 + 0.001,
            "_zero_point": torch.zeros(shape[0], dtype=torch.int64),
            "bias": torch.randn(shape[0], generator=self.random),
        }
        self.tensors |= {name + kind: tensor for kind, tensor in kinds.items()}
        read = [{"tensor": name + kind} for kind in kinds]
        per_channel = "quantized_decomposed.dequantize_per_channel.default"
        weights = self.add(per_channel, *read[:3], 0, -128, 127, {"dtype": "int8"})
        return self.add(operator, x, weights, read[3], *arguments)

    def conv(self, x, shape, *arguments):
        return self.layer("aten.conv2d.default", x, shape, *arguments)

    def ended(self, x, num_inputs):
        flat = self.add("aten.flatten.using_ints", x, 1)
        self.add("output", self.layer("aten.linear.default", flat, (5, num_inputs)))
        return self

    def source(self, classes=HOSTILE):
        steps = Translation(self.tensors, SHAPE, PIXELS).run(self.steps)
        return source_of(steps, SHAPE, classes)


def started():
    program = Program()
    return program, program.rounded(program.add("input"), 0.021, 120)


def strided_grouped():
    program, x = started()
    x = program.rounded(program.conv(x, (4, 2, 3, 3), [2, 1], [1, 2]), 0.11, 130)
    x = program.rounded(program.add("aten.relu.default", program.conv(x, (6, 2, 2, 3), [1, 2], [0, 1], [2, 1], 2)), 0.3)
    return program.ended(x, 6 * 3 * 6)


def pooled():
    program, x = started()
    x = program.rounded(program.conv(x, (3, 2, 3, 3)), 0.1, 128)
    x = program.rounded(program.add("aten.max_pool2d.default", x, [3, 2], [2, 2], [1, 1]), 0.1, 128)
    x = program.rounded(program.add("aten.avg_pool2d.default", x, [2, 2], [1, 1], [1, 1]), 0.1, 128)
    x = program.add("aten.pad.default", x, [0, 1, 0, 1], "replicate")
    x = program.rounded(program.add("aten.max_pool2d.default", x, [2, 2], [2, 2]), 0.1, 128)
    x = program.rounded(program.add("aten.adaptive_avg_pool2d.default", x, [1, 1]), 0.1, 128)
    return program.ended(program.rounded(x, 0.13, 90), 3)


def residual():
    program, x = started()
    before = program.add("aten.relu.default", program.conv(x, (4, 2, 3, 3), [1, 1], [1, 1]))
    x = program.rounded(before, 0.07)
    half = program.add("aten.slice.Tensor", before, 2, 0, 2**63 - 1, 2)
    half = program.add("aten.slice.Tensor", half, 3, 0, 2**63 - 1, 2)
    shortcut = program.rounded(program.add("aten.pad.default", half, [0, 0, 0, 0, 1, 2]), 0.05)
    deeper = program.conv(x, (7, 4, 3, 3), [2, 2], [1, 1])
    x = program.rounded(program.add("aten.relu6.default", program.add("aten.add.Tensor", deeper, shortcut)), 0.09, 3)
    both = program.add("aten.add.Tensor", x, shortcut)
    return program.ended(program.rounded(both, 0.14, 7), 7 * 25)


def joined():
    program, x = started()
    parts = [program.rounded(program.conv(x, (size, 2, 1, 1)), scale, 100) for size, scale in ((2, 0.05), (3, 0.08))]
    x = program.rounded(program.add("aten.cat.default", [*parts, x], 1), 0.06, 110)
    return program.ended(x, 7 * 81)


PROGRAMS = {made.__name__: made() for made in (strided_grouped, pooled, residual, joined)}


def compile_c(folder, text):
    (folder / "net.c").write_text(text)
    flags = [flag.replace("-O3", "-O0") for flag in C_FLAGS]
    subprocess.run(["cc", *flags, "net.c", "-o", "net"], cwd=folder, check=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_scores_are_those_of_exact_arithmetic(name, tmp_path):
    program = PROGRAMS[name]
    compile_c(tmp_path, program.source().text)
    pixels = torch.randint(0, 256, (40, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = torch.stack([PIXELS[channel][pixels[:, channel].long()] for channel in range(2)], 1)
    done = subprocess.run(
        ["./net"], cwd=tmp_path, input=pixels.permute(0, 2, 3, 1).numpy().tobytes(), capture_output=True, check=True
    )
    found = torch.tensor([[int(word) for word in line.split()] for line in done.stdout.splitlines()])
    net = deserialize(program.steps, program.tensors, "a test")
    exact = ExactProgram(net).run(images)
    assert len(found.unique()) > 50
    assert torch.equal(found, torch.round(exact * FRACTION).long())
    with torch.inference_mode():
        assert (net(images) - exact).abs().max() < 0.1 * exact.std()


def test_class_names_are_data(tmp_path):
    program, x = started()
    text = program.ended(program.rounded(x, 0.03, 120), 2 * 81).source().text
    assert set(text) <= set(map(chr, range(32, 127))) | {"\n"}
    head, _, _ = text.partition("#ifdef ZOO_MAIN")
    names = [name.encode(errors="replace") + b"\0" for name in HOSTILE]
    lines = [f"    fwrite(zoo_classes[{i}], 1, {len(name)}, stdout);" for i, name in enumerate(names)]
    compile_c(tmp_path, "\n".join([head, "#include <stdio.h>", "int main(void)", "{", *lines, "}"]))
    done = subprocess.run([tmp_path / "net"], capture_output=True, check=True)
    assert done.stdout == b"".join(names)
    assert "layer 0" not in text
