"""format=c: C files have the integers of their int8 programs, and what C cannot express is refused."""

import functools
import itertools
import json
import re
import subprocess
from dataclasses import asdict
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from zoo.checkpoint.named_files import file_of
from zoo.checkpoint.product_file import read_product, save_product
from zoo.data.images import ImageData
from zoo.data.sources import torchvision_images
from zoo.errors import BadInput
from zoo.export import worker
from zoo.export.c_arena import planned
from zoo.export.c_numbers import fixed_point
from zoo.export.c_program import Translation
from zoo.export.c_source import FRACTION, source_of
from zoo.export.c_terms import Bytes, Step
from zoo.export.export_format import format_of
from zoo.export.format_c import c_source
from zoo.quantize.exact_program import ExactProgram
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.pt2e import traced
from zoo.quantize.ptq_int8 import ptq

HOSTILE = ['a "quoted" */ name', "line\nbreak \\", "what??/", "%s %n", "ü猫\x00\udc80"]
SHAPE = (2, 9, 9)
PIXELS = (torch.arange(256.0) - 100) * torch.tensor([[0.02], [0.03]])


class Program:
    """An int8 program, written one layer after the other; results are numbered."""

    def __init__(self, shape=SHAPE):
        self.steps, self.tensors, self.shape = [], {}, shape
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

    def ended(self, x, num_inputs, num_classes=5):
        flat = self.add("aten.flatten.using_ints", x, 1)
        self.add("output", self.layer("aten.linear.default", flat, (num_classes, num_inputs)))
        return self

    def source(self, classes=HOSTILE):
        steps = Translation(self.tensors, self.shape, PIXELS).run(self.steps)
        return source_of(steps, self.shape, classes)


def started(shape=SHAPE):
    program = Program(shape)
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
    x = program.add("aten.relu.default", program.conv(x, (3, 3, 3, 3)))
    x = program.add("aten.pad.default", x, [0, 1, 0, 1], "replicate")  # as for ceil_mode, before anything is rounded
    x = program.rounded(program.add("aten.max_pool2d.default", x, [2, 2], [2, 2]), 0.03)
    x = program.rounded(program.add("aten.adaptive_avg_pool2d.default", x, [1, 1]), 0.03)
    return program.ended(program.rounded(x, 0.019, 9), 3)


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


def oblong():
    program, x = started((2, 7, 12))
    x = program.rounded(program.add("aten.relu.default", program.conv(x, (4, 2, 3, 3))), 0.1)
    x = program.rounded(program.add("aten.max_pool2d.default", x, [2, 2], [2, 2]), 0.1)
    return program.ended(x, 4 * 2 * 5)


PROGRAMS = {made.__name__: made() for made in (strided_grouped, pooled, residual, joined, oblong)}


def compile_c(folder, text):
    (folder / "net.c").write_text(text)
    flags = [flag.replace("-O3", "-O0") for flag in worker.C_FLAGS]
    subprocess.run(["cc", *flags, "net.c", "-o", "net"], cwd=folder, check=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_scores_are_those_of_exact_arithmetic(name, tmp_path):
    program = PROGRAMS[name]
    compile_c(tmp_path, program.source().text)
    pixels = torch.randint(0, 256, (40, *program.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
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


def test_tensors_that_are_alive_together_do_not_overlap():
    tensors = {name: Bytes((size, 1, 1), 1.0, 0) for name, size in zip("abcde", (10, 20, 30, 5, 8), strict=True)}
    a, b, c, d, e = tensors.values()
    chain = [Step((None,), a), Step((a,), b), Step((b,), c), Step((c,), d)]
    assert planned(chain)[1] == 50  # of b and c
    places, num_bytes = planned([*chain, Step((d, a), e)])  # a is alive throughout
    assert num_bytes == 60
    alive = [(a, b), (a, b, c), (a, c, d), (a, d, e)]
    for several in alive:
        spans = sorted((places[one], places[one] + one.size) for one in several)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_fixed_point_numbers_round_as_fractions():
    random = np.random.default_rng(0)
    for _ in range(200):
        factor, constant = (Fraction(float(np.float32(number))) for number in random.uniform(1e-5, 0.1, 2))
        numbers = fixed_point([factor], [2**22], [constant], [])
        found = int(random.integers(-(2**22), 2**22))
        value = found * numbers.factors[0] + numbers.constants[0]
        assert abs(value) < 2**62
        assert round(Fraction(value, 2**numbers.shift)) == round(found * factor + constant)
    with pytest.raises(BadInput, match="too far apart"):
        fixed_point([Fraction(2) ** 60], [2**20], [Fraction(0)], [])


def unsupported():
    """Yield programs that C cannot express, and what the message names."""
    program, x = started()
    program.add("aten.gelu.default", x)
    yield program, "the operator aten.gelu.default"
    program, x = started()
    program.tensors["w"] = torch.zeros(3, 2, 3, 3)
    program.add("aten.conv2d.default", x, {"tensor": "w"})
    yield program, "a convolution in floating point"
    program, x = started()
    deep = program.conv(x, (2, 2, 1, 1))
    program.add("aten.add.Tensor", deep, program.conv(x, (2, 2, 1, 1)))
    yield program, "a sum of two layers"
    program, x = started()
    program.rounded(program.add("aten.avg_pool2d.default", x, [2, 2]), 0.5)
    yield program, "average pooling that changes the scale"
    program, x = started()
    program.add("aten.add.Tensor", x, x, {"keywords": {"alpha": 2}})
    yield program, "these arguments of aten.add.Tensor"
    program, x = started()
    program.add("aten.adaptive_avg_pool2d.default", x, [2, 2])
    yield program, "from 9 × 9 to 2 × 2"


@pytest.mark.parametrize(("program", "named"), list(unsupported()))
def test_what_c_cannot_express_is_named_in_one_sentence(program, named):
    with pytest.raises(BadInput, match=re.escape(named)):
        program.source()


def test_a_missing_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BadInput, match="no compiler 'no-such-compiler'"):
        format_of("c").check()


@pytest.fixture
def int8_product(command, toy, tmp_path):
    """A net in int8 with random weights, as if lenet5 had been quantized, and toy images in data/."""
    facts = read_product(file_of("zoo:lenet5_fashion_mnist")).facts
    program, x = started()
    x = program.rounded(program.add("aten.relu.default", program.conv(x, (4, 1, 5, 5), [4, 4])), 0.1)
    program.ended(x, 4 * 36, 10)
    settings = {**facts["config"]["data"], "num_validation": 60}
    source = functools.partial(torchvision_images, dataset="FashionMNIST", root="data")
    images = ImageData(source, num_classes=10, in_channels=1, image_size=28, num_validation=60, seed=settings["seed"])
    data = {**facts["data"], **asdict(images.load())}
    step = {"pass": "ptq_int8", "num_batches": 1, "float_layers": [], "program": program.steps}
    config = {**facts["config"], "data": settings}
    facts = {**facts, "config": config, "recipe": [step], "data": data}
    save_product(tmp_path / "model.safetensors", program.tensors, facts)
    return tmp_path / "model.safetensors"


def test_a_file_is_compiled_run_and_reported_and_too_little_ram_leaves_none(command, int8_product):
    done = command("scripts/export", f"checkpoint={int8_product}", "format=c", "ram=100")
    assert done.code == 1, done.sentence
    assert "its activations take 928 bytes, more than ram=100" in done.sentence
    assert not int8_product.with_name("model.c").exists()
    done = command("scripts/export", f"checkpoint={int8_product}", "format=c", "ram=928")
    assert done.code == 0, done.err
    (row,) = json.loads(int8_product.with_name("exports.json").read_text())["rows"]
    text = int8_product.with_name("model.c").read_text()
    assert row["arena_bytes"] == 784 + 4 * 36
    assert row["constant_bytes"] == 256 + 4 * (25 + 16) + 10 * (144 + 16)
    assert row["size_bytes"] == len(text)
    assert row["largest_difference"] < 0.1
    assert 0 < row["peak_bytes"] < 5e6  # of the compiled program
    assert "928" in done.out


@pytest.mark.slow
def test_scores_that_are_not_the_programs_are_refused(command, int8_product, monkeypatch):
    monkeypatch.setattr("zoo.export.format_c.c_source", lambda product: wrong(c_source(product)))
    done = command("scripts/export", f"checkpoint={int8_product}", "format=c", "max_drop=100")
    assert done.code == 1, done.sentence
    assert "are not the program's" in done.sentence
    assert not int8_product.with_name("model.c").exists()


def wrong(source):
    """Shift the rounding of layers by half a step."""
    text = source.text.replace("found = (value + half) >> shift", "found = value >> shift")
    assert text != source.text
    return SimpleNamespace(text=text, arena_bytes=source.arena_bytes)


def test_a_float_net_is_refused(command, toy):
    done = command("scripts/export", "checkpoint=zoo:lenet5_fashion_mnist", "format=c")
    assert (done.code, "needs a net in int8" in done.sentence) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5_caffe", "resnet20"])
def test_a_thousand_images_have_the_scores_of_exact_arithmetic(name, tmp_path):
    torch.manual_seed(0)
    shipped = name == "lenet5_caffe"
    net = (
        zoo.load("lenet5_caffe_fashion_mnist").net if shipped else zoo.create_model(name, num_classes=10, in_channels=1)
    )
    scale = torch.tensor([[1 / 90.0]])
    pixels = torch.randint(0, 256, (1000, 1, 28, 28), dtype=torch.uint8)
    table = (torch.arange(256.0) - 72.9) * scale
    images = table[0][pixels.long()]
    program, tensors = ptq(traced(net.eval(), (torch.empty(1, 1, 28, 28, device="meta"),)), [(images[:64], None)], 1)
    steps = Translation(tensors, (1, 28, 28), table).run(program)
    file = tmp_path / "net.c"
    file.write_text(source_of(steps, (1, 28, 28), [str(i) for i in range(10)]).text)
    with worker.compiled(str(file)) as (run, _, _):
        found = torch.from_numpy(run([pixels.numpy()])[0])
    int8 = deserialize(program, tensors, "a test")
    assert torch.equal(found * FRACTION, torch.round(ExactProgram(int8).run(images) * FRACTION))
    with torch.inference_mode():
        assert (found.argmax(1) == int8(images).argmax(1)).float().mean() > 0.99
