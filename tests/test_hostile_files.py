"""Malicious files are only data: what they request is refused, and none of it happens."""

import copy
import functools
import itertools
import json
import math
import subprocess
import sys
import zipfile
from dataclasses import asdict

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, composed
from hostile_graphs import ADDED, with_more, with_other_ends
from onnx import TensorProto, helper
from small import FACTS, facts_of, tiny

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product, save_product
from zoo.checkpoint.stored_config import stored_net
from zoo.errors import BadInput
from zoo.export.onnx import save_onnx, write_onnx
from zoo.export.parts import parts
from zoo.export.pt2 import save_pt2
from zoo.export.read_export import read_export
from zoo.instantiate import build
from zoo.packed.header import facts_text
from zoo.packed.packed_file import save_packed
from zoo.quantize.pt2e import traced
from zoo.quantize.ptq_int8 import ptq
from zoo.records.metadata import parse_metadata

CODE = "__import__('os').mkdir('MARK')"
DATA = {"_target_": "zoo.data.images.ImageData", "source": {"_target_": "zoo.data.sources.mnist_5k", "_partial_": True}}
DATA |= {"num_classes": 10, "in_channels": 1, "image_size": 28, "num_validation": 500, "num_test": 1000}


def facts_with(model=None, data=None, recipe=(), **more):
    """Return the facts of a tiny net with some settings of its config replaced."""
    own = DATA if "root" not in (data or {}) else {key: DATA[key] for key in ("in_channels", "image_size")}
    config = {**FACTS["config"], "data": {**own, **(data or {})}, "data_root": "data"}
    config["model"] = model if isinstance(model, str | list) else {**FACTS["config"]["model"], **(model or {})}
    return {**FACTS, "export": None, "config": config, "recipe": list(recipe), "data": _of_digits(), **more}


@functools.cache
def _of_digits():
    return asdict(build(DATA, "data").load())


def program_files():
    """Yield int8 programs with their tensors: first a valid one, then those that contain more than arithmetic."""
    net = tiny()
    images = torch.randn(8, 1, 28, 28)
    program, tensors = ptq(traced(net, (images[:1].to("meta"),)), [(images, None)], 1)
    yield "whole_program", program, tensors
    relu = next(i for i, step in enumerate(program) if step[0] == "aten.relu.default")
    last = {"result": len(program) - 2}

    def changed(index, step):
        return [*program[:index], step, *program[index + 1 :]]

    def more(*steps):
        return [*program[:-1], *steps, ["output", {"result": len(program) - 2 + len(steps)}]]

    name = f"alpha = {CODE}, beta"
    yield "keyword", more(["aten.add.Tensor", last, last, {"keywords": {name: 1}}]), tensors
    first = next(iter(tensors))
    quote = f'x"); {CODE}; ("'
    renamed = json.loads(json.dumps(program).replace(json.dumps(first), json.dumps(quote)))
    yield "whole_tensor_name", renamed, {quote if key == first else key: value for key, value in tensors.items()}
    yield "operator", changed(relu, ["aten.save.default", program[relu][1], "MARK"]), tensors
    yield "dunder", changed(relu, ["operator.__call__", program[relu][1]]), tensors
    yield "dtype", more(["aten.to.dtype", last, {"dtype": "os"}]), tensors
    yield "text", more(["aten.pad.default", last, [0, 0], CODE]), tensors
    doubled = [["aten.cat.default", [{"result": len(program) - 2 + i}] * 2] for i in range(40)]
    yield "doubled", more(*doubled), tensors
    yield "expanded", more(["aten.expand.default", last, [2**20, 2**20, 10]]), tensors
    yield "padded", more(["aten.pad.default", last, [0, 2**40]]), tensors
    yield "steps", more(*[["aten.relu.default", last]] * 99_000), tensors
    end = len(program) - 2  # the result of the last step, which these extend
    padded = [["aten.pad.default", last, [0, 2**24]] for _ in range(20)]
    yield "alive_at_once", more(*padded, ["aten.cat.default", [{"result": end + 1 + i} for i in range(20)], 1]), tensors
    square = [["aten.pad.default", last, [0, 2**22 - 10]], ["aten.unflatten.int", {"result": end + 1}, 1, [2048, 2048]]]
    matrix = [*square, ["aten.select.int", {"result": end + 2}, 0, 0]]
    products = [["aten.linear.default", {"result": end + 2 + i}, {"result": end + 3}] for i in (0, *range(2, 200))]
    yield "many_products", more(*matrix, *products), tensors
    pooled = ["aten.max_pool2d.default", {"result": end + 2}, [1024, 1024], [1, 1]]
    yield "wide_pools", more(*square, *[pooled] * 3), tensors
    yield "place", more(["operator.getitem", last, 5]), tensors
    yield "only_in_pt2", more(["aten.zeros.default", [2, 10]]), tensors
    yield "gives_nothing", program[:-1], tensors
    for name, given in (("no_result", []), ("two", [last, last]), ("number", 7)):
        yield f"gives_{name}", [*program[:-1], ["output", given]], tensors
    yield "gives_twenty", more(["aten.cat.default", [last, last], 1]), tensors
    yield "gives_a_sum", more(["aten.mean.dim", last, [0, 1]]), tensors
    scales = next(name for name in tensors if name.endswith("_scale"))
    yield "scales", program, {**tensors, scales: tensors[scales][:-1].clone()}
    yield "forward_reference", changed(relu, ["aten.relu.default", {"result": 10**9}]), tensors
    deep: list = [1]
    for _ in range(900):
        deep = [deep]
    yield "deep", changed(relu, ["aten.relu.default", deep]), tensors
    yield "negative", changed(relu, ["aten.relu.default", {"result": -1}]), tensors


def product_files():
    """Yield facts for product and packed files, each with the weights of the tiny net."""
    yield "whole", facts_with()
    yield "model_as_yaml", facts_with(model=f"_target_: os.mkdir\npath: MARK  # {CODE}")
    yield "model_as_list", facts_with(model=["zoo.models.resnet.ResNet"])
    yield "foreign_target", facts_with(model={"_target_": "os.mkdir", "name": "MARK"})
    yield "module_in_module", facts_with(model={"_target_": "zoo.models.resnet.torch.load"})
    yield "function", facts_with(model={"_target_": "zoo.models.init.initialise"})
    yield "part_of_a_net", facts_with(model={"_target_": "torch.nn.Linear"})
    yield "nested_target", facts_with(model={"block": {"_target_": "os.mkdir", "name": "MARK"}})
    yield "interpolation", facts_with(model={"block": "${oc.env:HOME}"})
    yield "hydra_args", facts_with(model={"_args_": ["MARK"]})
    yield "recursive", facts_with(data={"_recursive_": False})
    yield "wide", facts_with(model={"widths": [2**30, 2**40]})
    yield "classes", facts_with(model={"num_classes": 2**40})
    yield "fewer_classes", facts_with(model={"num_classes": 10}) | {"data": {**_of_digits(), "classes": ["0", "1"]}}
    yield "one_name", facts_with() | {"data": {**_of_digits(), "classes": ["0"] * 10}}
    for name, task in (("text", "rotation"), ("null", None), ("list", [1])):
        facts = facts_with()
        yield f"task_as_{name}", {**facts, "config": {**facts["config"], "task": task}}
    yield "channels", facts_with(data={"in_channels": 2})
    yield "one_as_true", facts_with(data={"in_channels": True})
    yield "deep_net", facts_with(model={"depths": [10**9, 10**9]})
    yield "large_images", facts_with(data={"image_size": 2**20})
    yield "large_shorter_side", facts_with(data={"resize": 2**20})
    yield "interpolation_of_data", facts_with(data={"interpolation": "os.mkdir"})
    sizes = {"layout": {"conv1": {"shapes": {"weight": [2**40, None, None, None]}}}}
    step = {"pass": "prune_channels", "importance": "magnitude", "scope": "layer", "round_to": 8}
    step |= {"macs_before": 1, "macs": 1, "params_before": 1, "params": 1}
    yield "recipe_shapes", facts_with(recipe=[{**step, **sizes}])
    yield "recipe_name", facts_with(recipe=[{**step, "layout": {f"conv1.{CODE}": {"shapes": {"weight": [1]}}}}])
    yield "recipe_size", facts_with(recipe=[{**step, "layout": {"conv1": {"sizes": {"forward": 1}}}}])
    yield "recipe_pass", facts_with(recipe=[{"pass": "os.mkdir", "name": "MARK"}])
    download = {"_target_": "zoo.data.sources.torchvision_images", "_partial_": True, "dataset": "MNIST"}
    yield "download", facts_with(data={"source": {**download, "root": "MARK", "download": True}})
    yield "absolute_root", facts_with(data={"source": {**download, "root": "/MARK", "download": True}})
    yield (
        "source_function",
        facts_with(data={"source": {"_target_": "zoo.data.pairs.tab_separated", "path": "/dev/zero"}}),
    )
    folders = {"_target_": "zoo.data.folders.ImageFolders", "num_classes": None, "num_validation": 0}
    for name, root in (("root_of_disk", "/"), ("parent", "data/../../.."), ("zeros", "/dev/zero"), ("pipe", "pipe")):
        yield name, facts_with(data={**folders, "root": root})
    yield "other_train", facts_with(data={**folders, "root": "data", "train": "../../.."})
    yield "both", facts_with(data={**folders, "root": "data", "source": None})
    yield "many_workers", facts_with(data={**folders, "root": "data", "num_workers": 10**6})


def sequence_files():
    facts = facts_of(composed("transformer", "reverse"))
    yield "program_of_images", {**facts, "recipe": [PTQ]}
    facts["config"]["data"]["num_pairs"] = 10**12
    yield "many_pairs", facts


def pt2_files(content):
    """Yield archives whose records contain more than a net; their checksums are valid."""
    records = {}
    with zipfile.ZipFile(content) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(records)).partition("/")[0]
    name = f"{root}/models/model.json"

    def with_graph(change):
        model = json.loads(records[name])
        change(model["graph_module"])
        return {**records, name: json.dumps(model).encode()}

    def expression(text):
        def change(module):
            for value in module["graph"]["tensor_values"].values():
                for size in value["sizes"]:
                    if "as_expr" in size:
                        size["as_expr"]["expr_str"] = text

        return with_graph(change)

    def target(text):
        return with_graph(lambda module: module["graph"]["nodes"][0].update(target=text))

    def named(text):
        def change(module):
            old = module["signature"]["input_specs"][0]["parameter"]["arg"]["name"]
            changed = json.loads(json.dumps(module).replace(json.dumps(old), json.dumps(text)))
            module.clear()
            module.update(changed)

        return with_graph(change)

    yield "whole", records
    for i, text in enumerate((f"Max('{CODE}', 1)", f"Mod('{CODE}', 3)", "9**9**9**9", CODE)):
        yield f"whole_expression_{i}", expression(text)  # is never read: the rest of the file is intact
    yield "whole_name", named(f'x"); {CODE}; ("')
    targets = ("torch.ops.aten.save.default", "torch.ops.aten.from_file.default", "torch.os.mkdir", "_operator.le")
    for i, text in enumerate(targets):
        yield f"target_{i}", target(text)
    yield "zeros", {**records, f"{root}/extra/zeros": bytes(300_000_000)}
    yield "two_folders", {**records, f"other/{name.partition('/')[2]}": records[name]}

    def more(*steps):
        """Append nodes; each takes the result of the previous one in place of None."""

        def change(module):
            graph = module["graph"]
            (output,) = graph["outputs"]
            first = before = output["as_tensor"]["name"]
            for number, (text, *arguments) in enumerate(steps):
                values = [value or {"as_tensor": {"name": before}} for value in arguments]
                given = [{"name": f"a{i}", "arg": value, "kind": 1} for i, value in enumerate(values)]
                before = f"more_{number}"
                graph["nodes"].append({"target": text, "inputs": given, "outputs": [{"as_tensor": {"name": before}}]})
            graph["tensor_values"][before] = graph["tensor_values"][first]
            output["as_tensor"]["name"] = before
            module["signature"]["output_specs"][0]["user_output"]["arg"]["as_tensor"]["name"] = before

        return with_graph(change)

    yield "whole_more", more(["torch.ops.aten.mul.Tensor", None, {"as_float": 2.0}])
    yield "long_list", more(["torch.ops.aten.pad.default", None, {"as_ints": [0] * 10**6}])
    places = ["torch.ops.aten.mul.Tensor", None, {"as_float": 1e6}], ["torch.ops.aten.to.dtype", None, INT64]
    whole = json.loads(records[name])["graph_module"]
    shapes = whole["graph"]["tensor_values"]
    table = {"as_tensor": {"name": next(key for key, value in shapes.items() if len(value["sizes"]) == 2)}}
    yield (
        "computed_place",
        more(
            *places,
            ["torch.ops.aten.embedding.default", table, None],
            ["torch.ops.aten.select.int", None, {"as_int": 2}, {"as_int": 0}],
        ),
    )

    def outputs(change):
        """Change the list of the graph's outputs."""

        def changed(module):
            change(module["graph"]["outputs"])
            change(module["signature"]["output_specs"])

        return with_graph(changed)

    yield "gives_nothing", outputs(lambda several: several.clear())
    yield "gives_two", outputs(lambda several: several.append(several[0]))
    exported = facts_with(export=FACTS["export"])
    for key, value in (("bake", True), ("part", "encoder"), ("part", "step")):
        told = {**exported, "export": {**exported["export"], key: value}}
        yield f"told_{key}_{value}", {**records, f"{root}/extra/zoo": facts_text(told).encode()}
    image = next(spec["user_input"] for spec in whole["signature"]["input_specs"] if "user_input" in spec)["arg"]
    values = image["as_tensor"]["name"]
    yield "takes_bytes", with_graph(lambda module: module["graph"]["tensor_values"][values].update(dtype=1))


INT64 = {"as_scalar_type": 5}


def write_archive(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def onnx_files(model):
    """Yield graphs that reference other files or other graphs, or need too much memory."""

    def changed(change):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        change(copied)
        return copied

    def external(copied):
        tensor = copied.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="secret")

    def more(*nodes, sizes=()):
        def change(copied):
            last = copied.graph.node[-1]
            copied.graph.initializer.extend(sizes)
            output = copied.graph.output[0].name
            last.output[0] = "before"
            copied.graph.node.extend(nodes)
            copied.graph.node.append(helper.make_node("Add", ["before", "more"], [output]))

        return changed(change)

    def number(name, values):
        return onnx.numpy_helper.from_array(np.array(values, np.int64), name)

    yield "whole", model
    yield "external", changed(external)
    huge = [helper.make_node("ConstantOfShape", ["size"], ["big"])]
    huge.append(helper.make_node("ReduceSum", ["big"], ["more"], keepdims=0))
    yield "huge", more(*huge, sizes=[number("size", [2**30])])
    twice = [helper.make_node("Concat", [f"a{i}", f"a{i}"], [f"a{i + 1}"], axis=0) for i in range(40)]
    start = helper.make_node("Identity", ["before"], ["a0"])
    yield "doubled", more(start, *twice, helper.make_node("ReduceSum", ["a40"], ["more"], keepdims=0))
    yield "operator", more(helper.make_node("ImageDecoder", ["before"], ["more"]))
    yield "domain", more(helper.make_node("EPContext", ["before"], ["more"], domain="com.microsoft"))
    body = helper.make_graph([], "body", [], [])
    yield "loop", more(helper.make_node("Loop", ["", ""], ["more"], body=body))
    for name, tensor in (("tensor", {"dims": [2**40]}), ("negative_tensor", {"dims": [-1, -4], "raw_data": bytes(16)})):
        yield (
            name,
            more(helper.make_node("Identity", ["t"], ["more"]), sizes=[TensorProto(name="t", data_type=1, **tensor)]),
        )
    for name, nodes in ADDED.items():
        yield name, with_more(model, nodes)
    yield from with_other_ends(model)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Write all hostile files, let another process read them, and return its records by file name."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret").write_bytes(bytes(4096))
    weights = tiny().state_dict()
    for name, facts in product_files():
        save_product(folder / f"{name}.safetensors", weights, facts)
        save_packed(folder / f"{name}.zoo", weights, facts)
    for name, facts in sequence_files():
        net = stored_net(facts["config"]["model"])
        save_product(folder / f"{name}.safetensors", net.state_dict(), facts)
    for name, program, tensors in program_files():
        step = {"pass": "ptq_int8", "num_batches": 1, "float_layers": [], "program": program}
        save_product(folder / f"{name}.safetensors", tensors, facts_with(recipe=[step]))
    exported = facts_with(export=FACTS["export"])
    (part,) = parts(tiny(), exported).values()
    save_pt2(folder / "archive", part, exported)
    for name, records in pt2_files(folder / "archive"):
        compression = zipfile.ZIP_DEFLATED if name == "zeros" else zipfile.ZIP_STORED
        write_archive(folder / f"{name}.pt2", records, compression)
    save_onnx(folder / "graph", part, exported)
    for name, model in onnx_files(onnx.load(folder / "graph")):
        write_onnx(folder / f"{name}.onnx", model, exported)
    halved = {**exported, "export": {**exported["export"], "part": "encoder"}}
    write_onnx(folder / "images_encoder.onnx", onnx.load(folder / "graph"), halved)
    before = sorted(path.name for path in folder.iterdir())
    line = [sys.executable, str(ROOT / "tests" / "hostile.py"), str(folder)]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == before
    lines = [json.loads(text) for text in ran.stdout.splitlines()]
    return {line["file"]: line for line in lines}


def test_what_is_whole_is_read_and_all_else_is_refused_in_a_sentence(reports):
    assert len(reports) > 90
    wrong = {
        name: report["sentence"]
        for name, report in reports.items()
        if name.startswith("whole") == (report["sentence"] is not None)
    }
    assert not wrong


def test_no_file_brings_about_anything_but_its_reading(reports):
    assert not {name: report["done"] for name, report in reports.items() if report["done"]}


def test_no_file_takes_much_memory_or_time(reports):
    """A guard against hangs and excessive memory, not a measurement."""
    base = reports["whole.safetensors"]["mb"]
    assert max(report["mb"] for report in reports.values()) < base + 1000
    assert max(report["seconds"] for report in reports.values()) < 30


def test_paths_and_terminal_codes_in_a_sentence_are_short(reports):
    assert max(len(report["sentence"] or "") for report in reports.values()) < 800


DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]
ABSENT = object()
VALUES = {
    "absent": ABSENT,
    "null": None,
    "number": 7,
    "fraction": 0.5,
    "negative": -1,
    "text": "x",
    "empty": "",
    "list": [1],
    "no list": [],
    "map": {"a": 1},
    "no map": {},
    "huge": 10**30,
    "long": "x" * 100_000,
    "deep": DEEP,
    "nan": math.nan,
    "infinite": math.inf,
    "true": True,
}
PTQ = {"pass": "ptq_int8", "num_batches": 1, "float_layers": [], "program": [["input"], ["output", {"result": 0}]]}
PRUNED = {"pass": "prune_channels", "importance": "magnitude", "scope": "layer", "round_to": 8, "macs_before": 2}
PRUNED |= {"macs": 1, "params_before": 2, "params": 1}
PRUNED |= {
    "layout": {"conv1": {"sizes": {"out_channels": 2}, "shapes": {"weight": [2, None, None, None]}, "unsaved": {}}}
}
STEPS = [
    PTQ,
    PRUNED,
    {"pass": "semi_structured", "layers": ["fc"]},
    {"pass": "qat_int8", "shape": [1, 28, 28], "float_layers": []},
    {"pass": "convert_int8", "program": []},
    {"pass": "weight_only", "bits": 8, "group": None, "dynamic": False, "layers": ["fc"]},
]
BEST = {"epoch": 3, "metrics": {"val/accuracy": 0.5}}
OF_IMAGES = {"format": 3, **FACTS, "best": BEST, "step": 5, "recipe": STEPS}
OF_SEQUENCES = {"format": 3, **facts_of(composed("transformer", "reverse")), "best": BEST, "export": FACTS["export"]}


def places(value, path=()):
    """Yield the path to every key of nested mappings and lists, except those of config, which may be any plain data."""
    if isinstance(value, dict) and path != ("config",):  # nor into programs, which are checked where they are built
        for key, part in value.items():
            yield (*path, key)
            yield from places(part, (*path, key))
    elif isinstance(value, list) and path == ("recipe",):
        for index, part in enumerate(value):
            yield from places(part, (*path, index))


def with_value(facts, path, value):
    changed = copy.deepcopy(facts)
    *way, last = path
    parent = changed
    for key in way:
        parent = parent[key]
    if value is ABSENT:
        del parent[last]
    else:
        parent[last] = value
    return changed


# Other values that a valid record may have in such a place.
MAY = {
    "absent": {"best", "step", "export", "part", "sizes", "shapes", "unsaved", "conv1", "out_channels", "weight", "zoo"}
    | {"val/accuracy"},
    "null": {"commit", "best", "step", "export", "group", "content_hash", "val/accuracy"},
    "number": {
        "step",
        "macs",
        "macs_before",
        "params",
        "params_before",
        "round_to",
        "group",
        "epoch",
        "train",
        "val",
        "test",
    }
    | {"num_batches", "max_length", "val/accuracy", "out_channels"},
    "fraction": {"val/accuracy"},
    "negative": {"epoch", "val/accuracy"},
    "text": {"split_hash", "commit", "importance", "scope", "format", "zoo"},
    "empty": {"commit", "part"},
    "list": {"program", "out_channels", "weight", "mean", "std"},
    "no list": {"recipe", "program", "float_layers", "layers", "weight", "out_channels"},
    "map": {"sizes", "metrics"},
    "huge": {"val/accuracy"},
    "no map": {"versions", "num_samples", "metrics", "layout", "sizes", "shapes", "unsaved", "conv1"},
    "deep": {"program"},
    "true": {"dynamic", "bake"},
}


MAY["nan"] = MAY["infinite"] = MAY["null"]  # JSON can only write them as null


@pytest.mark.parametrize("facts", [OF_IMAGES, OF_SEQUENCES], ids=["images", "sequences"])
def test_metadata_are_a_valid_record_or_refused(facts):
    assert parse_metadata(json.dumps(facts), "x")
    odd, num = [], 0
    for path, (kind, value) in itertools.product(places(facts), VALUES.items()):
        if path == ("format",) or (path == ("export", "format") and kind == "text"):
            continue
        num += 1
        try:
            parse_metadata(json.dumps(with_value(facts, path, value)), "x")
        except BadInput:
            continue
        if path[-1] not in MAY.get(kind, ()):
            odd.append((path, kind))
    assert num > 400
    assert not odd


@pytest.mark.parametrize("facts", [OF_IMAGES, OF_SEQUENCES], ids=["images", "sequences"])
def test_whatever_stands_in_a_config_nothing_but_a_sentence_comes_of_it(facts):
    config, num, longest = facts["config"], 0, 0
    for group in config:
        keys = [(group,), *((group, key) for key in config[group])] if isinstance(config[group], dict) else [(group,)]
        for path, value in itertools.product(keys, VALUES.values()):
            num += 1
            changed = {**facts, "config": with_value(config, path, value)}
            try:
                parse_metadata(json.dumps(changed), "x")
            except BadInput as error:
                longest = max(longest, len(str(error)))
    assert longest < 1000
    assert num > 200


def test_whatever_stands_in_the_config_of_a_net_it_is_that_net_or_refused():
    """A setting that does not change the net, such as one used only in training, may have any valid value."""
    net, images, num = tiny(), torch.randn(2, 1, 28, 28), 0
    wanted = net(images)
    full = {"shortcut": "projection", "stride_on": "3x3", "preactivation": False, "activation": "relu"}
    full |= {"stochastic_depth": 0.0}
    model = {
        **FACTS["config"]["model"],
        **{key: full[key] for key in ("preactivation", "activation", "stochastic_depth")},
    }
    for key, value in itertools.product(model, VALUES.values()):
        num += 1
        config = {**FACTS["config"], "model": with_value(model, (key,), value)}
        try:
            facts = parse_metadata(json.dumps({"format": 3, **FACTS, "config": config}), "x")
            found = load_model(Product("x", net.state_dict(), facts)).eval()(images)
        except BadInput:
            continue
        assert key in ("stochastic_depth", "preactivation", "activation", "image_size", "block"), (key, value)
        assert key == "preactivation" or torch.equal(found, wanted), (key, value)
    assert num > 100


def flipped(content, num, seed=0):
    """Yield copies of some bytes with one bit flipped."""
    draw = np.random.default_rng(seed)
    for bit in draw.choice(8 * len(content), min(num, 8 * len(content)), replace=False):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield bytes(changed)


def cut(content, num):
    """Yield truncated copies of some bytes, evenly from none to nearly all of them."""
    return (content[: len(content) * i // num] for i in range(num))


@pytest.mark.parametrize("num", [pytest.param(60, id="60"), pytest.param(1000, id="1000", marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".safetensors", ".zoo", ".pt2", ".onnx"])
def test_a_damaged_file_is_refused_or_says_the_same(tmp_path, suffix, num):
    facts, path, images = facts_with(export=FACTS["export"]), tmp_path / f"x{suffix}", torch.randn(2, 1, 28, 28)
    save = {".safetensors": save_product, ".zoo": save_packed}
    if suffix in save:
        save[suffix](path, tiny().state_dict(), facts)
    else:
        (part,) = parts(tiny(), facts).values()
        {".pt2": save_pt2, ".onnx": save_onnx}[suffix](path, part, facts)

    def answer():
        if suffix in save:
            product = read_product(path)
            return product.facts, load_model(product).eval()(images).tolist()
        exported = read_export(path)
        return exported.facts, exported.net(images).tolist()

    whole = answer()
    content = path.read_bytes()
    for damaged in itertools.chain(flipped(content, num), cut(content, min(num, 200))):
        path.write_bytes(damaged)
        try:
            found = answer()
        except BadInput:
            continue
        assert found == whole
