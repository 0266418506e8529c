"""scripts/export.py: written files were verified and can be evaluated; if verification fails, no file is left."""

import copy
import json
import math
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, toy_run
from omegaconf import OmegaConf
from small import FACTS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product, save_product
from zoo.checkpoint.temperature import KEY as TEMPERATURE
from zoo.compress.context import Context
from zoo.errors import BadInput
from zoo.export import export, export_report, format_onnx, onnx
from zoo.export.export_format import TOLERANCES
from zoo.export.read_export import OnCpu
from zoo.export.verify import Answers, Verification, rejection_reason
from zoo.inference.evaluate import to_device
from zoo.packed.packed_file import save_packed
from zoo.run.quantize_product import TRAINED, ptq_int8


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fashion_root):
    """A run of a few seconds, trained once for all tests here."""
    place = tmp_path_factory.mktemp("trained")
    (place / "data").symlink_to(fashion_root)
    line = [sys.executable, ROOT / "train.py", *toy_run(Path("data"))]
    subprocess.run(line, cwd=place, capture_output=True, check=True)
    (folder,) = place.glob("runs/*/*")
    return folder


@pytest.fixture
def teacher(trained, toy, tmp_path):
    """The product of a copy of that run, with images in data/."""
    return shutil.copytree(trained, tmp_path / "runs/toy/copy") / "model.safetensors"


def hparams(folder):
    """Read the settings and metrics of a row of TensorBoard's HParams table."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.SummaryMetadata("_hparams_/session_start_info")
    told = HParamsPluginData.FromString(tags.plugin_data.content).session_start_info.hparams
    settings = {name: value.string_value or value.number_value for name, value in told.items()}
    return settings, {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


def test_each_format_is_computed_by_its_own_runtime_and_is_the_net(command, teacher, only_run):
    folder = only_run()
    done = command("scripts/export", f"checkpoint={teacher}", "format=[zoo,pt2,onnx]")
    assert done.code == 0, done.err
    found = json.loads((folder / "exports.json").read_text())
    rows = {row["format"]: row for row in found["rows"]}
    assert list(rows) == ["zoo", "pt2", "onnx"]
    result = json.loads((folder / "result.json").read_text())
    accuracy = result["test"]["accuracy"]
    assert result["exports"] == rows
    for row in rows.values():
        assert row["accuracy"] == pytest.approx(accuracy)
        assert row["largest_difference"] < 1e-4
        (file,) = row["files"]
        assert row["size_bytes"] == (folder / file).stat().st_size
        for batch in ("1", "64"):
            assert 0 < row["latency_ms"][batch]["p50"] <= row["latency_ms"][batch]["p95"]
        assert 2e7 < row["peak_bytes"] < 2e9
        assert row["format"] in done.out
    assert rows["pt2"]["modules"] == ["torch"]
    assert rows["onnx"]["modules"] == ["onnxruntime"]
    assert rows["onnx"]["peak_bytes"] < rows["pt2"]["peak_bytes"]
    figures = []
    for row in rows.values():
        (file,) = row["files"]
        evaluated = command("evaluate", f"checkpoint={folder / file}", "accelerator=auto")
        assert evaluated.code == 0, evaluated.err
        figures.append(json.loads((folder / f"evaluation_{file}.json").read_text()))
    assert not (folder / "evaluation.json").exists()
    assert [one["accuracy"] for one in figures] == pytest.approx([accuracy] * 3)
    assert [one["loss"] for one in figures] == pytest.approx([figures[0]["loss"]] * 3, rel=1e-5)
    assert not list(folder.glob(".export*"))
    of_run, run_metrics = hparams(folder)
    for name, row in rows.items():
        settings, metrics = hparams(folder / "exports" / name)
        same = of_run.keys() - {"format", "Size, kB"} & settings.keys()
        assert {key: settings[key] for key in same} == {key: of_run[key] for key in same}
        assert settings["format"] == name
        assert settings["Size, kB"] == pytest.approx(row["size_bytes"] / 1000, rel=1e-3)
        assert metrics["with the result/latency, ms"] == pytest.approx(row["latency_ms"]["1"]["p50"])
        of_test = "with the result/test accuracy"
        assert metrics[of_test] == pytest.approx(run_metrics[of_test])


def test_a_product_in_int8_stays_in_int8_with_the_same_scales(command, teacher):
    torch.manual_seed(0)
    product = read_product(teacher)
    batches = [(torch.randn(8, 1, 28, 28), torch.zeros(8))]
    context = Context((torch.randn(1, 1, 28, 28),), batches, measure=lambda net, split: {"accuracy": 1.0})
    ptq_int8(product, context, num_batches=1)
    done = command("scripts/export", f"checkpoint={teacher}", "format=[pt2,onnx]")
    assert done.code == 0, done.err
    rows = json.loads(teacher.with_name("exports.json").read_text())["rows"]
    assert [row["precision"] for row in rows] == ["int8", "int8"]
    assert rows[0]["largest_difference"] < 1e-4
    assert rows[1]["size_bytes"] < 0.35 * sum(
        w.nbytes for w in read_product(teacher.with_name(TRAINED)).weights.values()
    )
    line = [sys.executable, ROOT / "evaluate.py", f"checkpoint={teacher.with_name('model.pt2')}"]
    subprocess.run(line, capture_output=True, check=True)  # a process that has not imported anything for int8
    evaluation = json.loads(teacher.with_name("evaluation_model.pt2.json").read_text())
    assert evaluation["accuracy"] == pytest.approx(rows[0]["accuracy"])
    done = command("scripts/export", f"checkpoint={teacher}", "format=onnx_int8")
    assert (done.code, "this one is already in int8; use format=onnx" in done.sentence) == (2, True)


@pytest.mark.parametrize("name", ["onnx_fp16", "onnx_int8", "pte_int8"])
def test_weights_in_integers_are_not_quantized_again(name):
    product = SimpleNamespace(facts={"recipe": [{"pass": "weight_only"}], "data": FACTS["data"]})
    cfg = OmegaConf.create({"compress": {}, "half": False, "bake": False, "calibrated": False})
    with pytest.raises(BadInput, match=f"format={name} needs a float net, and this one is already quantized"):
        export._check_settings(product, [name], cfg)


def wrong(path, part, facts):
    """Write a different net: its head is shifted by a thousandth."""
    net = copy.deepcopy(part.net)
    with torch.no_grad():
        net.get_submodule(net.head_names[0]).bias += 1e-3
    onnx.save_onnx(path, replace(part, net=net), facts)


def test_a_file_that_disagrees_is_refused_and_leaves_no_file(command, teacher, only_run, monkeypatch):
    monkeypatch.setattr(format_onnx, "save_onnx", wrong)
    done = command("scripts/export", f"checkpoint={teacher}", "format=[onnx,onnx_int8]", "max_drop=100")
    assert done.code == 1
    assert done.sentence.startswith("error: format=onnx is refused, and its file not kept: a logit differs from the")
    assert [file.name for file in only_run().rglob("*.onnx")] == ["model_int8.onnx"]
    rows = json.loads((only_run() / "exports.json").read_text())["rows"]
    assert "a logit differs" in rows[0]["reason"]
    assert rows[1]["accuracy"]
    assert "refused" in done.out
    assert json.loads((only_run() / "result.json").read_text())["exports"]["onnx"]["reason"] == rows[0]["reason"]
    assert [folder.name for folder in (only_run() / "exports").iterdir()] == ["onnx_int8"]


def test_a_file_that_its_runtime_cannot_compute_is_refused(command, teacher, only_run, monkeypatch):
    monkeypatch.setattr(format_onnx, "save_onnx", lambda path, *_: path.write_bytes(b"no graph"))
    done = command("scripts/export", f"checkpoint={teacher}", "format=onnx")
    assert (done.code, list(only_run().rglob("*.onnx"))) == (1, [])
    assert "its runtime cannot compute it" in done.sentence


def test_a_file_that_is_larger_where_smaller_was_claimed_is_refused(command, teacher, only_run, monkeypatch):
    monkeypatch.setattr(format_onnx.Format, "smaller", True)
    done = command("scripts/export", f"checkpoint={teacher}", "format=onnx")
    assert (done.code, list(only_run().rglob("*.onnx"))) == (1, [])
    assert re.search("it takes [0-9,]+ bytes, expected fewer than the weights' 246,824", done.sentence)


def test_what_torch_cannot_translate_is_refused_with_its_reason(command, teacher, only_run, monkeypatch):
    def fails(path, *_):
        raise RuntimeError("a long story") from KeyError("there is no such operator")

    monkeypatch.setattr(format_onnx, "save_onnx", fails)
    done = command("scripts/export", f"checkpoint={teacher}", "format=[onnx]")
    assert done.code == 1
    assert done.sentence.endswith("onnxruntime cannot represent this net: 'there is no such operator'")


@pytest.mark.parametrize(("precision", "off", "allowed"), [("fp32", 2e-4, 1e-4), ("fp16", 8e-2, 5e-2)])
def test_logits_may_differ_by_a_share_of_the_largest(precision, off, allowed):
    for largest, limit in ((0.5, allowed), (30.0, 30 * allowed)):
        source = Answers([torch.tensor([[largest, 0.0]])], 0.9)
        proof = Verification(100, 0.9, off * max(1, largest), {}, 0, [])
        assert f"above {limit:.2g}" in rejection_reason(proof, source, TOLERANCES[precision], None, 0.5)
        assert (
            rejection_reason(replace(proof, largest_difference=0.9 * limit), source, TOLERANCES[precision], None, 0.5)
            is None
        )


def test_accuracy_may_fall_by_as_many_points_as_are_allowed():
    source = Answers([torch.tensor([[1.0, 0.0]])], 0.9)
    proof = Verification(100, 0.8951, 3.0, {}, 0, [])
    assert rejection_reason(proof, source, math.inf, 101, 0.5) is None
    half = Answers(source.logits, 0.915)  # 0.5000000000000004 points above
    assert rejection_reason(replace(proof, accuracy=0.91), half, math.inf, None, 0.5) is None
    assert (
        rejection_reason(proof, source, math.inf, None, 0.4)
        == "it loses 0.49 points of accuracy, more than max_drop=0.4"
    )


@pytest.fixture
def in_process(monkeypatch):
    """Run packed files in this process, to save seconds in tests of something else."""

    @contextmanager
    def running(paths, runs_alone, runtime):
        net = load_model(read_product(paths[0])).eval()
        once = {"p50": 1.0, "p95": 1.0}
        yield (
            [lambda *inputs: (net(*inputs),)],
            {"latency_ms": {"1": once, "64": once}, "peak_bytes": 1, "modules": []},
        )

    monkeypatch.setattr(export, "running", running)


def test_what_is_lost_by_sharing_is_counted_from_the_checkpoint(command, teacher, in_process):
    accuracy = json.loads(teacher.with_name("result.json").read_text())["test"]["accuracy"]
    line = (f"checkpoint={teacher}", "compress=share", "compress.share.bits=1", "format=zoo")
    done = command("scripts/export", *line)
    assert (done.code, teacher.with_name("model_shared.zoo").exists()) == (1, False)
    lost = float(re.search("it loses ([0-9.]+) points of accuracy, more than max_drop=0.5", done.sentence)[1])
    assert command("scripts/export", *line, "max_drop=100").code == 0
    assert command("evaluate", f"checkpoint={teacher.with_name('model_shared.zoo')}").code == 0
    left = json.loads(teacher.with_name("evaluation_model_shared.zoo.json").read_text())["accuracy"]
    assert lost == pytest.approx(100 * (accuracy - left), abs=0.005)
    assert lost > 1
    exports = json.loads(teacher.with_name("exports.json").read_text())
    assert exports["accuracy"] == pytest.approx(accuracy)
    assert [(row["format"], row["accuracy"]) for row in exports["rows"]] == [("zoo_shared", pytest.approx(left))]


def test_files_of_one_format_that_differ_have_names_of_their_own_and_all_are_told_of(command, teacher, in_process):
    lines = {
        "model.zoo": [],
        "model_shared.zoo": ["compress=share_5bit"],
        "model_bf16.zoo": ["half=bfloat16"],
    }
    for line in lines.values():
        done = command("scripts/export", f"checkpoint={teacher}", "max_drop=50", *line)
        assert done.code == 0, done.err
    rows = json.loads(teacher.with_name("exports.json").read_text())["rows"]
    assert [row["files"] for row in rows] == [[file] for file in lines]
    assert {row["format"]: row for row in rows} == json.loads(teacher.with_name("result.json").read_text())["exports"]
    assert [row["size_bytes"] for row in rows] == [teacher.with_name(file).stat().st_size for file in lines]
    weights = {file: read_product(teacher.with_name(file)).weights for file in ("model.safetensors", *lines)}
    (name, *_) = (name for name, weight in weights["model.safetensors"].items() if weight.ndim > 1)
    assert weights["model.zoo"][name].equal(weights["model.safetensors"][name])
    assert len(weights["model_shared.zoo"][name].unique()) <= 32 < len(weights["model_bf16.zoo"][name].unique())
    product = read_product(teacher)  # changed since, so earlier results do not apply to it
    product.weights[name] *= 1.001
    save_product(teacher, product.weights, product.facts)
    done = command("scripts/export", f"checkpoint={teacher}", "format=zoo")
    assert done.code == 0
    assert "Outdated    model_bf16.zoo, model_shared.zoo: the checkpoint has changed since they" in done.out
    exports = json.loads(teacher.with_name("exports.json").read_text())
    assert [row["format"] for row in exports["rows"]] == ["zoo"]
    assert exports["outdated"] == ["model_bf16.zoo", "model_shared.zoo"]
    assert [*json.loads(teacher.with_name("result.json").read_text())["exports"]] == ["zoo"]
    assert {board.name for board in teacher.with_name("exports").iterdir()} == {"zoo"}
    done = command(
        "scripts/export", f"checkpoint={teacher}", "max_drop=50", "half=bfloat16"
    )  # writes one of them again
    assert done.code == 0, done.err
    assert json.loads(teacher.with_name("exports.json").read_text())["outdated"] == ["model_shared.zoo"]
    line = ("compress=share_5bit", "format=safetensors", "max_drop=50")
    assert command("scripts/export", f"checkpoint={teacher}", *line).code == 0
    done = command("scripts/export", f"checkpoint={teacher.with_name('model_shared.safetensors')}", "format=zoo")
    assert (done.code, "out=ANOTHER_FOLDER" in done.sentence) == (2, True)


def test_only_files_of_the_checkpoint_before_are_outdated(command, teacher, in_process):
    """Not the checkpoint itself, which format=safetensors lists, and not files whose exports.json is gone."""
    assert command("scripts/export", f"checkpoint={teacher}", "format=[safetensors,zoo]").code == 0
    product = read_product(teacher)
    save_product(teacher, product.weights, {**product.facts, TEMPERATURE: 2.0})
    line = ("scripts/export", f"checkpoint={teacher}", "max_drop=50")
    done = command(*line, "format=zoo", "half=bfloat16")
    assert done.code == 0, done.err
    assert "Outdated    model.zoo: the checkpoint has changed since they were exported" in done.out
    teacher.with_name("exports.json").unlink()
    done = command(*line, "format=zoo", "half=true")
    assert (done.code, "Outdated" in done.out) == (0, False)
    assert {*json.loads(teacher.with_name("result.json").read_text())["exports"]} == {"zoo_fp16", "zoo_bf16"}


def test_names_of_files_elsewhere_are_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "other").touch()
    earlier = export_report.Earlier([], set(), {"../other", str(tmp_path / "other"), "x" * 300})
    product = SimpleNamespace(path=tmp_path / "model.safetensors")
    about = {"checkpoint": "model.safetensors", "net": "lenet5", "data": "mnist_5k", "accuracy": 1.0}
    assert export_report.write_rows(about, [], earlier, product, tmp_path / "run") == []


def test_what_takes_pixels_is_told_from_what_takes_normalised_images_by_its_name():
    cfg = OmegaConf.create({"compress": {}, "half": False, "bake": True, "calibrated": False})
    names = {name: export._file(name, cfg) for name in ("zoo", "pt2", "onnx_int8")}
    assert names == {"zoo": "model.zoo", "pt2": "model_baked.pt2", "onnx_int8": "model_int8_baked.onnx"}
    both = OmegaConf.create({"compress": {"share": {}}, "half": True, "bake": True, "calibrated": True})
    assert export._file("zoo", both) == "model_shared_fp16.zoo"
    assert export._file("onnx", both) == "model_shared_baked_calibrated.onnx"


def test_a_file_that_no_export_wrote_is_not_replaced(command, teacher, only_run):
    product = read_product(teacher)
    save_packed(
        teacher.with_name("model.zoo"), product.weights, product.facts, half=True
    )  # as a run of compress=packed
    save_product(teacher.with_name("model_shared.safetensors"), product.weights, product.facts)
    before = {file: file.read_bytes() for file in only_run().iterdir() if file.is_file()}
    for line, words in (
        ([f"checkpoint={teacher}", "format=zoo"], "which no export wrote; set out=FOLDER"),
        (
            [f"checkpoint={teacher.with_name('model.zoo')}", "format=safetensors"],
            "which no export wrote; set out=FOLDER",
        ),
        (
            [f"checkpoint={teacher.with_name('model_shared.safetensors')}", "format=safetensors", "compress=share"],
            "would replace the checkpoint itself; set out=FOLDER",
        ),
    ):
        done = command("scripts/export", *line)
        assert done.code == 2
        assert words in done.sentence
    assert {file: file.read_bytes() for file in only_run().iterdir() if file.is_file()} == before


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (["max_drop=nan"], "max_drop"),
        (["max_drop=-1"], "max_drop"),
        (["max_drop=true"], "max_drop"),
        (["bake=foo"], "bake"),
        (["format=[]"], "format"),
        (["format=onnx_int8", "calibration_batches=0"], "calibration_batches"),
        (["batch_size=0"], "batch_size"),
        (["half=bf16"], "half: expected"),
        (["half=[a]"], "half"),
        (["compress=share", "compress.share.rate=nan"], "compress.share.rate"),
        (["compress=share", "compress.share.rate=inf"], "compress.share.rate"),
        (["compress=share", "compress.share.bits=0"], "compress.share.bits"),
        (["compress=share", "compress.share.bits=2.5"], "compress.share.bits"),
        (["compress=share", "compress.share.mean_bits=nan"], "compress.share.mean_bits"),
        (["compress=share", "compress.share.init=lineal"], "compress.share.init"),
    ],
    ids=str,
)
def test_nonsense_is_refused_before_anything_is_done(command, teacher, only_run, line, key):
    before = {file.name for file in only_run().iterdir()}
    done = command("scripts/export", f"checkpoint={teacher}", *line)
    assert done.code == 2
    assert done.sentence.startswith(f"error: {key}")
    assert {file.name for file in only_run().iterdir()} == before


def test_a_net_in_half_is_told_from_one_that_is_not(command, teacher):
    done = command("scripts/export", f"checkpoint={teacher}", "format=zoo", "half=bfloat16", "max_drop=5")
    assert done.code == 0, done.err
    (row,) = json.loads(teacher.with_name("exports.json").read_text())["rows"]
    assert (row["precision"], row["files"]) == ("bf16", ["model_bf16.zoo"])


def test_absent_data_are_said_and_nothing_is_written(command, teacher, tmp_path, monkeypatch):
    from zoo.data import sources

    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    product = read_product(teacher)
    product.facts["config"]["data"]["source"]["download"] = False
    (tmp_path / "x").mkdir()
    save_product(tmp_path / "x/model.safetensors", product.weights, product.facts)
    done = command(
        "scripts/export", f"checkpoint={tmp_path}/x/model.safetensors", "format=onnx", f"data_root={tmp_path}/empty"
    )
    assert done.code == 2
    assert "FashionMNIST was not found" in done.sentence
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_a_file_that_is_absent_or_foreign_is_one_sentence(command, tmp_path, name):
    done = command("evaluate", f"checkpoint={name}")
    assert (done.code, "there is no file" in done.sentence) == (2, True)
    (tmp_path / name).write_bytes(b"hello")
    done = command("evaluate", f"checkpoint={name}")
    assert (done.code, "is truncated or is not" in done.sentence) == (2, True)


def test_exported_files_are_computed_on_the_cpu_and_no_other_is_promised():
    with pytest.raises(BadInput, match="computed on the CPU"):
        to_device(OnCpu(), "cuda")


def test_nothing_is_compiled_where_there_is_no_compiler(command, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = command("scripts/export", "checkpoint=model.safetensors", "format=[zoo,aoti]")
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert "there is no compiler 'no-such-compiler'; install g++, or set CXX" in done.sentence


def test_the_matrix_fits_a_terminal(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    times = {"1": {"p50": 0.025, "p95": 0.039}, "64": {"p50": 12.4, "p95": 15.1}}
    proof = Verification(1_902_000, 0.9641, 4.9e-6, times, 771_000_000, [])
    export_report.show("a net", [export_report.Row("safetensors", "fp32", "aotinductor", ["x"], proof)])
    line = capfd.readouterr().out.splitlines()[3]
    words = ["safetensors", "fp32", "aotinductor", "1,902", "96.41%", "5e-06", "0.025/0.039", "12/15", "771"]
    assert line.split() == words
