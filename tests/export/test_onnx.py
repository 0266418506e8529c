"""The .onnx file: ONNX Runtime computes the net from it alone, and damaged or foreign files are refused."""

import contextlib
import io
import json

import onnx
import pytest
import torch
from conftest import ROOT, composed
from hostile_graphs import SIZES, one, with_more
from small import BAKED, FACTS, facts_of, said_alone, tiny

from zoo.errors import BadInput
from zoo.export import worker
from zoo.export.onnx import save_onnx, write_onnx
from zoo.export.parts import parts
from zoo.export.read_export import pixels, read_export


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    save_onnx(path, parts(tiny(), FACTS)[""], FACTS)
    return path.read_bytes()


@pytest.fixture
def file(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_any_number_of_images_gets_the_logits_of_the_net(file, batch):
    images = torch.randn(batch, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(read_export(file).net(images), tiny()(images), rtol=0, atol=1e-5)


def test_onnx_runtime_alone_computes_it_and_finds_what_a_user_must_know(file):
    code = (
        "import json, sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "logits = session.run(None, {'images': numpy.ones((2, 1, 28, 28), numpy.float32)})[0]\n"
        "assert not {'torch', 'zoo'} & set(sys.modules)\n"
        "print(json.dumps([logits.tolist(), session.get_modelmeta().custom_metadata_map]))"
    )
    logits, texts = said_alone(code, file)
    torch.testing.assert_close(torch.tensor(logits), tiny()(torch.ones(2, 1, 28, 28)).detach(), rtol=0, atol=1e-5)
    assert json.loads(texts["classes"])[9] == "class 9"
    assert [json.loads(texts[name]) for name in ("mean", "std", "image_size", "channels")] == [[72.9], [90.0], 28, 1]
    assert "(pixel - mean) / std" in texts["input"]


def test_onnx_itself_finds_no_fault_in_it_and_no_place_it_came_from(file):
    onnx.checker.check_model(str(file), full_check=True)
    graph = onnx.load(file).graph.SerializeToString()
    assert b"resnet" not in graph
    assert b"zoo" not in graph


def test_with_normalisation_in_the_graph_it_takes_pixels(tmp_path):
    net = tiny()
    save_onnx(tmp_path / "x.onnx", parts(net, BAKED)[""], BAKED)
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    normalised = (images.float() - 72.9) / 90
    assert torch.equal(pixels(normalised, torch.tensor(72.9), torch.tensor(90.0)), images)
    exported = read_export(tmp_path / "x.onnx")
    for found in (exported.net(normalised), exported.net.run(images)[0]):
        torch.testing.assert_close(found, net(normalised).detach(), rtol=0, atol=1e-5)


def test_a_file_cut_anywhere_is_refused(content, file):
    for length in [*range(0, len(content), 997), *range(len(content) - 100, len(content))]:
        file.write_bytes(content[:length])
        with pytest.raises(
            BadInput, match=r"truncated or is not an \.onnx file|changed after it was written|not written by"
        ):
            read_export(file)


def test_a_flipped_bit_of_a_weight_is_refused(content, file):
    weight = tiny().fc.weight.detach().numpy().tobytes()
    damaged = bytearray(content)
    damaged[content.index(weight) + 5] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(BadInput, match="changed after it was written"):
        read_export(file)


@pytest.mark.parametrize("foreign", [b"", b"hello", b"PK\x05\x06" + bytes(18), bytes(100)])
def test_a_foreign_file_is_refused(file, foreign):
    file.write_bytes(foreign)
    with pytest.raises(BadInput, match=r"truncated or is not an \.onnx file|not written by scripts/export\.py"):
        read_export(file)


def test_an_onnx_file_of_somebody_else_is_refused(file):
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, file)
    with pytest.raises(BadInput, match=r"not written by scripts/export\.py"):
        read_export(file)


def test_a_net_of_other_images_or_classes_than_the_file_tells_of_is_refused(file):
    model = onnx.load(file)
    for told in (
        {**FACTS, "config": {**FACTS["config"], "data": {"in_channels": 1, "image_size": 32}}},
        {**FACTS, "data": {**FACTS["data"], "classes": ["one"]}},
    ):
        write_onnx(file, model, told)
        with pytest.raises(BadInput, match="does not match its metadata"):
            read_export(file)


def test_weights_in_another_file_are_not_read(file, monkeypatch):
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="weights", size_threshold=0)
    assert file.with_name("weights").stat().st_size > 1000
    write_onnx(file, onnx.load(file, load_external_data=False), FACTS)
    monkeypatch.chdir(file.parent)  # where ONNX Runtime would look for it
    with pytest.raises(BadInput, match="from another file"):
        read_export(file)


def test_half_of_a_net_that_writes_is_refused_and_so_are_halves_of_two(file, tmp_path):
    model, data = onnx.load(file), facts_of(composed("transformer", "reverse"))["data"]

    def told(part, **more):
        return {**FACTS, "data": {**data, **more}, "export": {**FACTS["export"], "part": part}}

    write_onnx(tmp_path / "x_step.onnx", model, told("step"))
    with pytest.raises(BadInput, match=r"is the step of a sequence net, and x_encoder\.onnx is not next to it"):
        read_export(tmp_path / "x_step.onnx")
    write_onnx(tmp_path / "x_encoder.onnx", model, told("encoder", max_length=5))
    with pytest.raises(BadInput, match="are of different nets"):
        read_export(tmp_path / "x_step.onnx")
    write_onnx(tmp_path / "x_encoder.onnx", model, told("encoder"))
    with pytest.raises(BadInput, match="does not match its metadata"):
        read_export(tmp_path / "x_encoder.onnx")


def test_halves_that_do_not_fit_together_are_refused(tmp_path):
    paths = {part: tmp_path / f"x_{part}.onnx" for part in ("encoder", "step")}
    models = {part: onnx.load(ROOT / "tests" / "earlier" / f"transformer_{part}.onnx") for part in paths}
    facts = {part: json.loads({one.key: one.value for one in models[part].metadata_props}["zoo"]) for part in paths}
    for part, path in paths.items():
        write_onnx(path, models[part], facts[part])
    assert read_export(paths["step"]).net
    paths["step"].rename(tmp_path / "x.onnx")
    with pytest.raises(BadInput, match="the step of a sequence net, and its name must show this"):
        read_export(tmp_path / "x.onnx")
    write_onnx(paths["step"], models["step"], facts["encoder"])
    with pytest.raises(BadInput, match="the encoder of a sequence net, and its name must show this"):
        read_export(paths["step"])
    with pytest.raises(BadInput, match="is not the step, as its name says"):
        read_export(paths["encoder"])
    write_onnx(paths["step"], models["step"], facts["step"])
    del models["encoder"].graph.output[-1]
    write_onnx(paths["encoder"], models["encoder"], facts["encoder"])
    with pytest.raises(BadInput, match="does not match its metadata"):
        read_export(paths["encoder"])


def test_a_graph_takes_no_more_memory_than_there_is(file, monkeypatch):
    images = torch.randn(2000, 1, 28, 28)  # the first layer alone outputs 25 MB
    wanted = read_export(file).net(images)
    monkeypatch.setattr("zoo.export.onnx.available_bytes", lambda: 2**22)
    net = read_export(file).net
    torch.testing.assert_close(net(images[:2]), wanted[:2])
    with pytest.raises(BadInput, match=r"cannot be computed for \[2000, 1, 28, 28\]: .* memory"):
        net(images)


@pytest.mark.parametrize(("num", "fits"), [(2, True), (3, False)])
def test_sizes_are_told_for_the_very_images_that_come(file, num, fits):
    """The added result has one number for two images, and 2^40 for three."""
    model = with_more(onnx.load(file), SIZES["large_for_just_4"])
    four = next(tensor for tensor in model.graph.initializer if tensor.name == "[4]")
    four.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(four) - 1, "[4]"))
    write_onnx(file, model, FACTS)
    images = torch.randn(num, 1, 28, 28)
    with contextlib.nullcontext() if fits else pytest.raises(BadInput, match="which no net has"):
        torch.testing.assert_close(read_export(file).net(images), tiny()(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("operator", "added"), [("Div", 0), ("Mod", 3)])
def test_integers_may_be_divided_by_a_number_above_0(file, operator, added):
    write_onnx(file, with_more(onnx.load(file), one(operator, "num", "[1000]")), FACTS)
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(read_export(file).net(images), tiny()(images) + added, rtol=0, atol=1e-5)


# As shown by Linux, shortened to the flags from the first AVX one on.
XEON_AMX = "flags\t\t: fpu vme avx avx2 avx512f avx512_vnni avx512_bitalg amx_int8\n"
CORE_ALDER_LAKE = "flags\t\t: fpu vme avx avx2 avx_vnni gfni\n"
EPYC_ROME = "flags\t\t: fpu vme avx avx2 sha_ni\n"
SKYLAKE_IN_A_VM = "flags\t\t: fpu vme avx avx2 avx512f avx512bw\nvmx flags\t: vnmi avx512_vnni\n"


@pytest.mark.parametrize(
    ("cpuinfo", "has_it"), [(XEON_AMX, True), (CORE_ALDER_LAKE, True), (EPYC_ROME, False), (SKYLAKE_IN_A_VM, False)]
)
def test_sums_of_int8_are_taken_slowly_only_where_they_would_be_cut_off(monkeypatch, cpuinfo, has_it):
    monkeypatch.setattr("builtins.open", lambda path: io.StringIO("processor\t: 0\n" + cpuinfo))
    options = worker.session_options(1)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="does not have") if has_it else contextlib.nullcontext():
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_the_flags_of_this_cpu_say_what_torch_says():
    with open("/proc/cpuinfo") as lines:
        assert worker.has_vnni(lines) or not torch.cpu._is_vnni_supported()
