import copy
import json

import pytest
import torch
from torch import nn

from zoo.benchmarks import SUITES, inference_suite, loader_suite
from zoo.benchmarks.decoding_suite import WithoutCache
from zoo.benchmarks.rounds import Suite, compare, compared, suite_of
from zoo.errors import BadInput
from zoo.export.onnx import translate
from zoo.export.onnx_int8 import quantized
from zoo.export.parts import ExportPart
from zoo.models.decoding import greedy
from zoo.models.lenet import LeNet5Caffe
from zoo.models.transformer import Transformer
from zoo.quantize import int8_speed
from zoo.quantize.pt2e import sums_int8_exactly

COMPILED = ["int8 compiled"] if sums_int8_exactly() else []  # elsewhere it does not take part
PRUNED = [*COMPILED, "ONNX Runtime int8", "pruned: fp32 eager", "pruned: ONNX Runtime fp32"]
LOADERS = ["torchvision, PIL, 1", "ours, 1", "torchvision, tensors, 2", "torchvision, PIL, 2", "ours, 2"]
STEP = ["suite=step", "model=resnet18", "data=imagenet", "data.image_size=65", "data.batch_size=2"]


def test_the_verdict_names_the_fastest_of_each_net_and_why_int8_is_not(monkeypatch):
    monkeypatch.setattr(int8_speed, "sums_int8_exactly", lambda: True)
    seconds = {"fp32 compiled": 0.6, "OpenVINO fp32": 0.5, "int8 compiled": 0.3, "ONNX Runtime int8": 0.1}
    pruned = {"pruned: fp32 eager": 0.2, "pruned: int8 compiled": 0.3, "pruned: ONNX Runtime int8": 0.25}
    narrow = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Conv2d(12, 16, 3))  # 2 of 3 with 12 channels
    assert inference_suite.verdicts(seconds | pruned, {"": nn.Identity(), "pruned: ": narrow}) == [
        "ONNX Runtime int8 is fastest, 5.00 times as fast as OpenVINO fp32",
        "pruned: fp32 eager is fastest, 1.25 times as fast as ONNX Runtime int8. int8 is slower here: "
        "2 of 3 convolutions have channels that are not a multiple of 16",
    ]
    assert inference_suite.verdicts({"fp32 eager": 1.0}, {"": narrow, "pruned: ": narrow}) == ["fp32 eager is fastest"]


def test_contenders_run_in_turn_and_are_compared_round_by_round():
    # A machine that becomes ten times slower after the second round, and a contender that is always three times slower.
    calls: list[str] = []

    def contender(name, factor):
        def run():
            calls.append(name)
            return factor * (10 if len(calls) > 6 else 1)

        return run

    figures = compare(Suite({"base": contender("base", 1.0), "other": contender("other", 3.0)}, 12, 10**12), rounds=4)
    assert calls == ["base", "other"] * 5
    assert figures["other"]["ratio"] == 3.0
    assert figures["other"]["ratio_range"] == [3.0, 3.0]
    assert figures["base"]["seconds"] == [1.0, 1.0, 10.0, 10.0]  # the first round, a warm-up, is not counted
    assert figures["base"]["median_seconds"] == 5.5
    assert figures["base"]["samples_per_second"] == pytest.approx(12 / 5.5)
    assert figures["base"]["tflops"] == pytest.approx(12 * 6 / 5.5)  # forward, and twice that for backward


def test_the_baseline_is_the_first_of_those_asked_for(compose):
    cfg = compose("only=[two,one]", "rounds=1", config="benchmark")
    suite = Suite({"one": lambda: 1.0, "two": lambda: 2.0, "three": lambda: 3.0})
    assert [(name, row["ratio"]) for name, row in compared(suite, cfg).items()] == [("two", 1.0), ("one", 0.5)]


def test_every_suite_that_is_offered_is_there(compose):
    for name in SUITES:
        assert callable(suite_of(compose(f"+suite={name}")))


@pytest.mark.parametrize(
    ("settings", "baseline", "others"),
    [
        (["suite=train", "trainer.limit_train_batches=2"], "hand-written loop", ["train.py", "PIL", "the same"]),
        (
            [*STEP, "reference=resnet18", "only=[torchvision eager,eager,channels_last]"],
            "torchvision eager",
            ["eager", "channels_last"],
        ),
        (
            ["suite=loader", "only=['torchvision, tensors','torchvision, PIL',ours]"],
            "torchvision, tensors, 1 worker",
            LOADERS,
        ),
        (
            [
                *("suite=inference", "model=lenet5_caffe", "data.batch_size=4", "compress=prune_channels"),
                f"only={['fp32 compiled', *PRUNED]}",
            ],
            "fp32 compiled",
            PRUNED,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_suite_measures_what_it_says(command, data_root, tmp_path, monkeypatch, settings, baseline, others):
    monkeypatch.setattr(loader_suite, "NUM_PICTURES", 128)
    monkeypatch.setattr(loader_suite, "NUM_WORKERS", (1, 2))
    arguments = [f"data_root={data_root}", "data.num_validation=60", "rounds=1", "out=figures.json", *settings]
    outcome = command("scripts/benchmark", *arguments)
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "figures.json").read_text())
    first, *rest = report["figures"]
    assert first == baseline
    assert len(rest) == len(others)
    assert all(name.startswith(other) for name, other in zip(rest, others, strict=True))
    assert all(row["samples_per_second"] > 0 for row in report["figures"].values())


def test_product_files_take_turns_whether_floats_or_int8(command, toy, teacher, tmp_path):
    assert (
        command("train", *toy, f"init_from={teacher}", "trainer.max_epochs=0", "compress=ptq_int8", "name=q").code == 0
    )
    run = next((tmp_path / "runs/q").iterdir())
    names = [f"{run.name}/trained: fp32 eager", f"q/{run.name}: {[*COMPILED, 'ONNX Runtime int8'][0]}"]
    files = f"checkpoint=[{run}/trained.safetensors,{run}/model.safetensors]"
    settings = ["suite=inference", files, f"only=['{names[0]}','{names[1]}']", "rounds=1", "out=figures.json"]
    outcome = command("scripts/benchmark", *settings)
    assert outcome.code == 0, outcome.err
    assert list(json.loads((tmp_path / "figures.json").read_text())["figures"]) == names


def test_openvino_runs_the_graphs_of_onnx_runtime():
    pytest.importorskip("openvino")
    torch.manual_seed(0)  # with some weights, half a step of int8 is rounded up by one and down by the other
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    graph = translate(ExportPart(LeNet5Caffe().eval(), (torch.zeros(2, 1, 28, 28),)))
    for one in (graph, quantized(copy.deepcopy(graph), [images.numpy()])):
        found, expected = inference_suite._openvino(one)(images)[0], inference_suite._onnx_runtime(one)(images)[0]
        torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_steps_of_muon_are_timed_beside_torchs(command, tmp_path):
    settings = ["suite=muon", "model=resnet20", "rounds=1", "out=figures.json"]
    assert command("scripts/benchmark", *settings).code == 0
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert list(figures) == ["torch.optim.Muon", "optim=muon", "optim=muon optim.bf16=true"]


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_decoding_without_cache_finds_the_same(positions):
    torch.manual_seed(0)
    net = Transformer(9, 8, 16, 1, 2, num_heads=2, mlp_width=32, positions=positions, max_length=9).eval()
    source = torch.randint(3, 9, (5, 7))
    assert greedy(WithoutCache(net), source, 9).tolist() == greedy(net, source, 9).tolist()


@pytest.mark.parametrize(
    "names",
    [
        ["greedy, without cache", "greedy", "beam=4"],
        pytest.param(["greedy", "greedy, compiled"], marks=pytest.mark.slow),
    ],
)
def test_decoding_is_timed_with_and_without_cache(command, tmp_path, monkeypatch, names):
    small = ["model.width=16", "model.encoder_depth=1", "model.decoder_depth=1", "trainer=smoke"]
    assert command("train", "data=reverse", *small).code == 0
    settings = ["suite=decoding", "checkpoint=runs/transformer_reverse", "rounds=1", "out=figures.json"]
    if "greedy, compiled" in names:
        settings.append(f"only={names}")
    else:
        monkeypatch.setenv("CXX", "no-such-compiler")
    outcome = command("scripts/benchmark", *settings)
    assert outcome.code == 0, outcome.err
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert list(figures) == names
    assert all(row["samples_per_second"] > 0 for row in figures.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["suite=decoding"], ["suite=decoding", "checkpoint=zoo:transformer_cmudict"]),
        (["suite=decoding", "checkpoint=zoo:lenet5_mnist_5k"], ["sequence nets", "images"]),
        (["suite=trian"], ["suite=trian", "train"]),
        (["rounds=0"], ["rounds: expected", "at least 1"]),
        (["only=[loop]", "suite=augment"], ["only=loop", "a batch at once"]),
        (["suite=step", "reference=resnet19"], ["reference=resnet19", "resnet18"]),
        (["suite=inference", "data=reverse"], ["suite=inference", "image nets"]),
        (["suite=muon", "model=lenet300"], ["suite=muon", "convolutions"]),
        (["suite=muon", "data=reverse"], ["suite=muon", "image nets"]),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(command, settings, words):
    outcome = command("scripts/benchmark", *settings)
    assert outcome.code == 2
    assert all(word in outcome.sentence for word in words)


def test_without_a_compiler_compiled_nets_are_not_measured(command, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    outcome = command("scripts/benchmark", "suite=inference")
    assert outcome.code == 2
    assert "suite=inference compiles the net, and there is no compiler 'no-such-compiler'" in outcome.sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_without_cuda_the_gpu_suite_is_refused(compose):
    with pytest.raises(BadInput, match="CUDA"):
        next(suite_of(compose("+suite=gpu"))(None))


def test_the_gpu_suite_is_of_settings_that_there_are(compose):
    from zoo.benchmarks.gpu_suite import PARTS, RACES

    for suite, *settings in PARTS.values():
        suite_of(compose(*settings, f"suite={suite}", "trainer=gpu", config="benchmark"))
    for settings in RACES.values():
        compose(*settings, "trainer=gpu")


@pytest.mark.slow
def test_the_first_step_is_reached_not_long_after_torch_is_there(compose):
    figures = compare(suite_of(compose("+suite=startup"))(None), rounds=1)
    assert all(row["median_seconds"] > 0 for row in figures.values())


def test_one_net_is_compared_in_files_of_several_kinds(command, teacher, tmp_path):
    line = [f"checkpoint={teacher}", "data_root=data", f"out={tmp_path}/sizes.json"]
    assert command("scripts/benchmark", "suite=packed", *line).code == 0
    figures = json.loads((tmp_path / "sizes.json").read_text())["figures"]
    assert {"fp32", "packed, rounded", "packed, shared", "int8, zip", "int8, xz", "int8, ONNX"} <= figures.keys()
    size = {name: row["bytes"] for name, row in figures.items()}
    assert size["fp32"] == pytest.approx(4 * 61_706, rel=0.02)
    assert 61_706 * 0.3 < size["int8, zip"] < 1.1 * 61_706
    assert size["packed, rounded"] < 2 / 3 * size["packed, shared"]
    trained = json.loads((teacher.parent / "result.json").read_text())["test"]["accuracy"]
    assert figures["fp32"]["test_accuracy"] == pytest.approx(trained)
    assert all(row["test_accuracy"] > trained - 0.05 for row in figures.values())
