"""scripts/export.py: what it writes was proven and can be evaluated, and what cannot be proven leaves no file."""

import copy
import json
import re
from dataclasses import replace

import pytest
import torch

from zoo import exporting
from zoo.checkpoint import read_product, save_product
from zoo.export import pt2
from zoo.proof import Answers, Proof, refusal


def test_each_format_is_computed_by_its_own_runtime_and_is_the_net(command, teacher, only_run):
    folder = only_run()
    done = command("scripts/export", f"checkpoint={teacher}", "format=[safetensors,zoo,pt2,onnx]")
    assert done.code == 0, done.err
    found = json.loads((folder / "exports.json").read_text())
    rows = {row["format"]: row for row in found["rows"]}
    assert list(rows) == ["safetensors", "zoo", "pt2", "onnx"]
    accuracy = json.loads((folder / "result.json").read_text())["test"]["accuracy"]
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
        evaluated = command("evaluate", f"checkpoint={folder / row['files'][0]}", "accelerator=auto")
        assert evaluated.code == 0, evaluated.err
        figures.append(json.loads((folder / "evaluation.json").read_text()))
    assert [one["accuracy"] for one in figures] == pytest.approx([accuracy] * 4)
    assert [one["loss"] for one in figures] == pytest.approx([figures[0]["loss"]] * 4, rel=1e-5)
    assert not list(folder.glob(".export*"))


def wrong(path, part, facts):
    """Write another net than asked: its head was shifted by a thousandth."""
    net = copy.deepcopy(part.net)
    with torch.no_grad():
        net.get_submodule(net.head_names[0]).bias += 1e-3
    pt2.save_pt2(path, replace(part, net=net), facts)


def test_a_file_that_disagrees_is_refused_and_leaves_no_file(command, teacher, only_run, monkeypatch):
    monkeypatch.setattr(exporting, "save_pt2", wrong)
    done = command("scripts/export", f"checkpoint={teacher}", "format=[pt2,safetensors]")
    assert done.code == 1
    assert done.sentence.startswith("error: format=pt2 is refused, and its file removed: a logit differs from the")
    assert not list(only_run().rglob("*.pt2"))
    rows = json.loads((only_run() / "exports.json").read_text())["rows"]
    assert "a logit differs" in rows[0]["reason"]
    assert rows[1]["accuracy"]
    assert "refused" in done.out


def test_a_file_that_its_runtime_cannot_compute_is_refused(command, teacher, only_run, monkeypatch):
    monkeypatch.setattr(exporting, "save_pt2", lambda path, *_: path.write_bytes(b"no archive"))
    done = command("scripts/export", f"checkpoint={teacher}", "format=pt2")
    assert (done.code, list(only_run().rglob("*.pt2"))) == (1, [])
    assert "its runtime cannot compute it" in done.sentence


def test_a_file_that_is_larger_where_smaller_was_claimed_is_refused(command, teacher, only_run, monkeypatch):
    monkeypatch.setitem(exporting.FORMATS, "pt2", replace(exporting.FORMATS["pt2"], smaller=True))
    done = command("scripts/export", f"checkpoint={teacher}", "format=pt2")
    assert (done.code, list(only_run().rglob("*.pt2"))) == (1, [])
    assert re.search("it takes [0-9,]+ bytes, and less than the weights' 246,824 was claimed", done.sentence)


def test_what_torch_cannot_translate_is_refused_with_its_reason(command, teacher, only_run, monkeypatch):
    def fails(path, *_):
        raise RuntimeError("there is no such operator")

    monkeypatch.setattr(exporting, "save_onnx", fails)
    done = command("scripts/export", f"checkpoint={teacher}", "format=[onnx]")
    assert done.code == 1
    assert done.sentence.endswith("onnxruntime has no way to say this net: there is no such operator")


@pytest.mark.parametrize(("precision", "off", "allowed"), [("fp32", 2e-4, 1e-4), ("fp16", 8e-2, 5e-2)])
def test_logits_may_differ_by_a_share_of_the_largest(precision, off, allowed):
    for largest, limit in ((0.5, allowed), (30.0, 30 * allowed)):
        source = Answers([torch.tensor([[largest, 0.0]])], 0.9)
        proof = Proof(100, 0.9, off * max(1, largest), {}, 0, [])
        assert f"{limit:.2g} is allowed" in refusal(proof, source, precision, None, 0.5)
        assert refusal(replace(proof, largest_difference=0.9 * limit), source, precision, None, 0.5) is None


def test_accuracy_may_fall_by_as_many_points_as_are_allowed():
    source = Answers([torch.tensor([[1.0, 0.0]])], 0.9)
    proof = Proof(100, 0.8951, 3.0, {}, 0, [])
    assert refusal(proof, source, "int8", 101, 0.5) is None
    assert (
        refusal(proof, source, "int8", None, 0.4) == "it loses 0.49 points of accuracy, where max_drop=0.4 are allowed"
    )


def test_a_checkpoint_is_not_replaced_by_another(command, teacher, only_run):
    assert command("scripts/export", f"checkpoint={teacher}", "format=zoo").code == 0
    before = teacher.read_bytes()
    for line in (
        (f"checkpoint={teacher}", "compress=share", "format=safetensors"),
        (f"checkpoint={teacher.parent}/model.zoo", "half=true", "format=zoo"),
    ):
        done = command("scripts/export", *line)
        assert done.code == 2
        assert "would replace the checkpoint itself; say out=FOLDER" in done.sentence
    assert teacher.read_bytes() == before


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
    assert (done.code, "is cut short or is no" in done.sentence) == (2, True)


def test_exported_files_are_computed_on_the_cpu_and_no_other_is_promised(command, teacher, only_run):
    assert command("scripts/export", f"checkpoint={teacher}", "format=onnx").code == 0
    done = command("evaluate", f"checkpoint={only_run()}/model.onnx", "accelerator=cuda")
    assert (done.code, "computed on the CPU" in done.sentence) == (2, True)
