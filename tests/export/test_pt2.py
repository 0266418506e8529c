"""The .pt2 file: it is restored exactly for any number of images, and anything that could run code is refused."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch
from small import BAKED, FACTS, said_alone, tiny
from torch import nn

from zoo.errors import BadInput
from zoo.export.parts import parts
from zoo.export.pt2 import save_pt2
from zoo.export.read_export import read_export

GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
SAMPLES = "data/sample_inputs/model.pt"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    save_pt2(path, parts(tiny(), FACTS)[""], FACTS)
    return path.read_bytes()


@pytest.fixture
def file(content, tmp_path):
    (tmp_path / "model.pt2").write_bytes(content)
    return tmp_path / "model.pt2"


def changed(path, **records):
    """Rewrite the archive with some records replaced or, for None, removed; its checksums are valid."""
    with zipfile.ZipFile(path) as old:
        parts = {info.filename: old.read(info) for info in old.infolist()}
    root = next(iter(parts)).partition("/")[0]
    parts |= {f"{root}/{name}": content for name, content in records.items()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in parts.items():
            if content is not None:
                new.writestr(name, content)
    return path


def record(path, name):
    with zipfile.ZipFile(path) as archive:
        (found,) = (info for info in archive.namelist() if info.endswith(name))
        return json.loads(archive.read(found))


class Runs:
    """Create a file when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def pickled(what):
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_any_number_of_images_gets_the_logits_of_the_net(file, batch):
    images = torch.randn(batch, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(read_export(file).net(images), tiny()(images), rtol=0, atol=1e-5)


def test_torch_alone_reads_it_and_finds_what_a_user_must_know(file):
    code = (
        "import json, sys, torch; texts = {'classes': '', 'mean': ''}\n"
        "net = torch.export.load(sys.argv[1], extra_files=texts).module()\n"
        "assert not any(name.startswith('zoo') for name in sys.modules)\n"
        "print(json.dumps([net(torch.ones(2, 1, 28, 28)).tolist(), texts['classes'], texts['mean']]))"
    )
    logits, classes, mean = said_alone(code, file)
    torch.testing.assert_close(torch.tensor(logits), tiny()(torch.ones(2, 1, 28, 28)).detach(), rtol=0, atol=1e-5)
    assert json.loads(classes)[9] == "class 9"
    assert json.loads(mean) == [72.9]


def test_it_holds_no_weight_that_the_graph_does_not_read_and_no_place_it_came_from(file, tmp_path):
    net = tiny()
    net.unread = nn.Linear(300, 300)
    save_pt2(tmp_path / "x.pt2", parts(net, FACTS)[""], FACTS)
    sizes = [path.stat().st_size for path in (file, tmp_path / "x.pt2")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    assert sizes[1] < 300 * 300 * 4
    assert b"resnet.py" not in (tmp_path / "x.pt2").read_bytes()
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(read_export(tmp_path / "x.pt2").net(images), net(images), rtol=0, atol=1e-5)


def test_with_normalisation_in_the_graph_it_takes_pixels(tmp_path):
    net = tiny()
    save_pt2(tmp_path / "x.pt2", parts(net, BAKED)[""], BAKED)
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    exported = read_export(tmp_path / "x.pt2")
    for found in (exported.net((images.float() - 72.9) / 90), exported.net.run(images)[0]):
        torch.testing.assert_close(found, net((images.float() - 72.9) / 90), rtol=0, atol=1e-5)


def test_a_file_cut_anywhere_is_refused(content, file):
    for length in range(0, len(content), 997):
        file.write_bytes(content[:length])
        with pytest.raises(BadInput, match=r"truncated or is not a \.pt2 file|not written by scripts"):
            read_export(file)


def test_a_flipped_bit_of_a_weight_is_refused(content, file):
    weight = tiny().layer1[0].conv1.weight.detach().numpy().tobytes()
    damaged = bytearray(content)
    damaged[content.index(weight) + 5] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(BadInput, match="CRC"):
        read_export(file)


@pytest.mark.parametrize("foreign", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"\x80\x02}q\x00."])
def test_a_foreign_file_is_refused(file, foreign):
    file.write_bytes(foreign)
    with pytest.raises(BadInput, match=r"truncated or is not a \.pt2 file|not written by scripts"):
        read_export(file)


def test_a_pt2_file_of_somebody_else_is_refused(file):
    program = torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),))
    torch.export.save(program, file)
    with pytest.raises(BadInput, match=r"not written by scripts/export\.py"):
        read_export(file)


def test_a_net_of_other_images_or_classes_than_the_file_tells_of_is_refused(file):
    for change in ({"image_size": 32}, {"image_size": 14}):
        told = {**FACTS, "config": {**FACTS["config"], "data": {**FACTS["config"]["data"], **change}}, "format": 3}
        with pytest.raises(BadInput, match="does not match its metadata"):
            read_export(changed(file, **{"extra/zoo": json.dumps(told)}))
    told = {**FACTS, "data": {**FACTS["data"], "classes": ["one"]}, "format": 3}
    with pytest.raises(BadInput, match=r"returns \[10\], expected float32 \[1, 28, 28\] and float32 \[1\]"):
        read_export(changed(file, **{"extra/zoo": json.dumps(told)}))


@pytest.mark.parametrize("text", ["[", "5", "{}", '{"format": 2}'])
def test_facts_of_another_version_are_refused(file, text):
    with pytest.raises(BadInput, match=r"metadata of a net|has format 2"):
        read_export(changed(file, **{"extra/zoo": text}))


def graph_with(file, change):
    graph = record(file, GRAPH)
    change(graph)
    return {GRAPH: json.dumps(graph)}


def pickled_weight(file, mark):
    config = record(file, WEIGHTS)
    config["config"]["conv1.weight"]["use_pickle"] = True
    return {WEIGHTS: json.dumps(config), "data/weights/weight_0": pickled(Runs(mark))}


def pickled_samples(file, mark):
    return {SAMPLES: pickled(Runs(mark))}


def pickled_constants(file, mark):
    return {"data/constants/model.pt": pickled(Runs(mark))}


def evaluated_size(file, mark):
    def change(graph):
        sizes = [
            value["sizes"][0] for value in graph["graph_module"]["graph"]["tensor_values"].values() if value["sizes"]
        ]
        next(s for s in sizes if "as_expr" in s)["as_expr"]["expr_str"] = f"__import__('os').mkdir('{mark}')"

    return graph_with(file, change)


def python_guard(file, mark):
    return graph_with(file, lambda graph: graph.update(guards_code=[f"__import__('os').mkdir('{mark}')"]))


def function_of_torch(file, mark):
    def change(graph):
        node = graph["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.os.mkdir"
        node["inputs"] = [{"name": "", "arg": {"as_string": str(mark)}, "kind": 1}]

    return graph_with(file, change)


def name_with_code(file, mark):
    def change(graph):
        call = graph["graph_module"]["module_call_graph"][0]["signature"]
        call["forward_arg_names"] = [f"x=__import__('os').mkdir('{mark}')"]

    return graph_with(file, change)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (pickled_weight, "use_pickle"),
        (function_of_torch, "its tensors are not the ones it reads|'torch.os.mkdir'|not an operator"),
        (pickled_samples, None),
        (pickled_constants, None),
        (evaluated_size, None),
        (name_with_code, None),
        (python_guard, None),
    ],
)
def test_what_would_have_torch_run_anything_is_refused_or_never_looked_at(content, file, tmp_path, attack, words):
    (tmp_path / "whole.pt2").write_bytes(content)
    images = torch.randn(2, 1, 28, 28)
    whole = read_export(tmp_path / "whole.pt2").net(images)
    changed(file, **attack(file, tmp_path / "mark"))
    if words:
        with pytest.raises(BadInput, match=words):
            read_export(file)
    else:
        assert torch.equal(read_export(file).net(images), whole)
    assert not (tmp_path / "mark").exists()


def test_torch_by_itself_would_run_it(content, tmp_path):
    """If this no longer holds, a check may be removed."""
    attacks = (pickled_weight, pickled_samples, pickled_constants, evaluated_size)
    for attack in attacks:
        file = tmp_path / f"{attack.__name__}.pt2"
        file.write_bytes(content)
        changed(file, **attack(file, tmp_path / attack.__name__))
    code = (
        "import contextlib, sys, torch\n"
        "for path in sys.argv[1:]:\n"
        "    with contextlib.suppress(Exception): torch.export.load(path).module()"
    )
    subprocess.run([sys.executable, "-c", code, *tmp_path.glob("*.pt2")], capture_output=True, check=True)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {attack.__name__ for attack in attacks}


def test_compiled_code_is_not_run_unseen(file):
    with pytest.raises(BadInput, match="compiled code, which is never run here"):
        read_export(changed(file, **{"data/aotinductor/model/x.so": b"\x7fELF"}))
