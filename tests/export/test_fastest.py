"""format=fastest: the file with the lowest median latency is kept, with those that were named."""

import json
import re
import sys
from types import SimpleNamespace

import onnx
import pytest
import torch
from small import FACTS
from torch import nn

from zoo.errors import BadInput
from zoo.export import export, fastest
from zoo.export.export_report import Row
from zoo.export.onnx import translate
from zoo.export.parts import ExportPart
from zoo.export.verify import Verification, running
from zoo.models.lenet import LeNet5Caffe
from zoo.quantize import int8_speed

MS = {"onnx": 2.0, "onnx_int8": 3.0, "pt2": 4.0}
PROOF = Verification(1, 0.9, 0.0, {}, 1, [])


@pytest.fixture
def tried(tmp_path):
    """Rows of zoo, which is not a candidate, of three candidates that were verified, and of one that was refused."""
    rows = [("zoo", Row("zoo", "fp32", "zoo", ["model.zoo"], PROOF))]
    rows += [(name, Row(name, "int8" if "int8" in name else "fp32", "", [f"{name}.file"], PROOF)) for name in MS]
    rows.append(("aoti", Row("aoti", "fp32", "", [], reason="it loses 2.00 points of accuracy")))
    for _, row in rows:
        for file in row.files:
            (tmp_path / file).touch()
    return rows


@pytest.fixture
def job(monkeypatch):
    """What is exported; files take the latencies above."""

    def timed_in_turn(tried, job, folder):
        found = [fastest.Timed(name, row, MS[name]) for name, row in tried if name in MS]
        return sorted(found, key=lambda one: one.ms)

    monkeypatch.setattr(fastest, "timed_in_turn", timed_in_turn)
    return SimpleNamespace(cfg=SimpleNamespace(fastest_at=1), net=LeNet5Caffe())


@pytest.mark.parametrize(("named", "kept"), [([], {"onnx"}), (["pt2"], {"onnx", "pt2"}), (["onnx"], {"onnx"})])
def test_only_the_fastest_and_named_files_are_kept(tried, job, tmp_path, named, kept):
    left, _ = fastest.keep_fastest(tried, job, ["fastest", "zoo", *named], tmp_path)
    rows = [row for _, row in left]
    files = {"model.zoo", *(f"{name}.file" for name in kept)}
    assert {file.name for file in tmp_path.iterdir()} == files
    assert {file for row in rows for file in row.files} == files
    assert [row.proof is None for row in rows] == [False, False, False, False, True]


@pytest.mark.parametrize(("has_vnni", "reason"), [(True, "converting activations"), (False, "this CPU has no VNNI")])
def test_the_verdict_says_by_how_much_and_why_int8_is_not_fastest(tried, job, tmp_path, monkeypatch, has_vnni, reason):
    monkeypatch.setattr(int8_speed, "sums_int8_exactly", lambda: has_vnni)
    _, (first, second, third) = fastest.keep_fastest(tried, job, ["fastest"], tmp_path)
    assert first.startswith("onnx.file takes 2 ms for 1 image in ")
    assert "onnx_int8 1.50 times as long, pt2 2.00 times as long" in first
    assert second.startswith(f"int8 is slower here: {reason}")
    assert third == "aoti is left out: it loses 2.00 points of accuracy"
    monkeypatch.setitem(MS, "onnx_int8", 1.0)
    assert len(fastest.verdict(fastest.timed_in_turn(tried, job, tmp_path), 64, job.net)) == 1


def test_a_file_is_kept_for_the_runtime_that_computes_it_fastest(tried, job, tmp_path, monkeypatch):
    other = Row("onnx_int8_openvino", "int8", "openvino", ["onnx_int8.file"], PROOF)

    def timed_in_turn(tried, job, folder):
        found = [fastest.Timed(name, row, 1.0 if row is other else MS[name]) for name, row in tried if name in MS]
        return sorted(found, key=lambda one: one.ms)

    monkeypatch.setattr(fastest, "timed_in_turn", timed_in_turn)
    left, (first, *_) = fastest.keep_fastest([*tried, ("onnx_int8", other)], job, ["fastest"], tmp_path)
    assert first.startswith("onnx_int8.file takes 1 ms for 1 image in openvino on ")
    assert "onnx_int8 3.00 times as long" in first
    assert {file.name for file in tmp_path.iterdir()} == {"model.zoo", "onnx_int8.file"}
    assert left[-1][1].files == ["onnx_int8.file"]


def test_openvino_computes_what_onnx_runtime_does(tmp_path):
    pytest.importorskip("openvino")
    onnx.save(translate(ExportPart(nn.Conv2d(3, 4, 3).eval(), (torch.zeros(2, 3, 8, 8),))), tmp_path / "model.onnx")
    images, found = torch.randn(2, 3, 8, 8), {}
    for runtime in ("onnxruntime", "openvino"):
        with running([tmp_path / "model.onnx"], True, runtime) as (runs, measured):
            (found[runtime],) = runs[0](images)
        assert runtime in measured["modules"]
    assert torch.allclose(found["openvino"], found["onnxruntime"], atol=1e-5)


def test_without_a_verified_candidate_the_named_files_are_kept(command, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(fastest, "CANDIDATES", ("onnx",))
    monkeypatch.setattr(export, "has_openvino", lambda: False)
    worse = {"onnxruntime": "it is worse"}
    monkeypatch.setattr(
        export, "rejection_reason", lambda proof, *_: next((worse[one] for one in proof.modules if one in worse), None)
    )
    done = command("scripts/export", "checkpoint=zoo:lenet5_mnist_5k", "format=[fastest,zoo]", f"out={out}")
    assert (done.code, done.sentence) == (1, "error: format=fastest found no file to keep: onnx: it is worse")
    assert {file.name for file in out.iterdir()} == {"model.zoo", "ledger.png", "exports.json"}
    rows = json.loads((out / "exports.json").read_text())["rows"]
    assert [(row["format"], row["files"]) for row in rows] == [("zoo", ["model.zoo"]), ("onnx", [])]


def test_what_openvino_refuses_does_not_refuse_the_named_file(command, tmp_path, monkeypatch):
    refused = Row("onnx_openvino", "fp32", "openvino", [], reason="it is not there")
    monkeypatch.setattr(fastest, "CANDIDATES", ("onnx",))
    monkeypatch.setattr(export, "has_openvino", lambda: True)
    monkeypatch.setattr(export, "_in_openvino", lambda *_: [("onnx", refused)])
    monkeypatch.setattr(fastest, "timed_in_turn", lambda tried, job, folder: [fastest.Timed(*tried[0], 1.0)])
    arguments = ("checkpoint=zoo:lenet5_mnist_5k", f"out={tmp_path / 'out'}")
    done = command("scripts/export", *arguments, "format=[fastest,onnx]")
    assert done.code == 0, done.err
    assert (tmp_path / "out/model.onnx").exists()


def test_candidates_suit_the_net_and_the_machine(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for name in [name for name in sys.modules if name.partition(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    found, left_out = fastest.with_candidates(["zoo", "onnx", "fastest"], SimpleNamespace(facts=FACTS))
    assert found == ["zoo", "onnx", "onnx_int8", "pt2"]
    assert "no compiler 'no-such-compiler'" in left_out[0]
    assert "needs the package executorch" in left_out[1]
    in_int8 = {**FACTS, "recipe": [{"pass": "ptq_int8"}]}
    assert fastest.with_candidates(["fastest"], SimpleNamespace(facts=in_int8))[0] == ["onnx", "pt2"]
    sequences = {**FACTS, "data": {}}
    with pytest.raises(BadInput, match="this one reads sequences"):
        fastest.with_candidates(["fastest"], SimpleNamespace(facts=sequences))


def test_files_of_earlier_exports_are_kept(command, tmp_path, monkeypatch):
    """Those of candidates that are not the fastest, and those of formats that are refused now."""
    out = tmp_path / "out"
    arguments = ("scripts/export", "checkpoint=zoo:lenet5_mnist_5k", f"out={out}")
    assert command(*arguments, "format=onnx").code == 0
    first, row = (out / "model.onnx").read_bytes(), json.loads((out / "exports.json").read_text())["rows"]
    monkeypatch.setattr(fastest, "CANDIDATES", ("onnx", "pt2"))
    monkeypatch.setattr(export, "has_openvino", lambda: False)
    monkeypatch.setattr(
        fastest,
        "timed_in_turn",
        lambda tried, job, folder: [
            fastest.Timed(*one, ms) for one, ms in zip(reversed(tried), (1.0, 2.0), strict=True)
        ],
    )
    done = command(*arguments, "format=fastest")
    assert done.code == 0, done.err
    assert {file.name for file in out.iterdir()} == {"model.onnx", "model.pt2", "exports.json"}
    rows = json.loads((out / "exports.json").read_text())["rows"]
    assert [one["files"] for one in rows] == [["model.onnx"], ["model.pt2"]]
    assert rows[0] == row[0]
    assert (out / "model.onnx").read_bytes() == first
    with monkeypatch.context() as patched:
        patched.setattr(export, "rejection_reason", lambda *_: "it is worse")
        assert command(*arguments, "format=onnx").code == 1
    assert (out / "model.onnx").read_bytes() == first
    assert command(*arguments, "format=onnx").code == 0  # the file is still one that an export wrote


@pytest.mark.slow
def test_the_command_leaves_one_file(command, tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "CANDIDATES", ("onnx", "onnx_int8", "pt2"))
    done = command("scripts/export", "checkpoint=zoo:lenet5_mnist_5k", "format=fastest", f"out={tmp_path / 'out'}")
    assert done.code == 0, done.err
    (file,) = (file for file in (tmp_path / "out").iterdir() if file.name != "exports.json")
    assert re.search(rf"Fastest +{file.name} takes [0-9.]+ ms for 1 image on .*times as long", done.out)
    rows = json.loads((tmp_path / "out/exports.json").read_text())["rows"]
    assert [row["files"] for row in rows if row["files"]] == [[file.name]]
    assert all(row["latency_ms"] for row in rows)
