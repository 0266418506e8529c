"""Integer weights: a layer computes the same as with rounded float weights, in a fraction of the bytes."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from conftest import composed, inputs_of
from small import facts_of
from torch import nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product, save_product
from zoo.errors import BadInput
from zoo.models.attention import Attention
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.pt2e import traced
from zoo.quantize.ptq_int8 import ptq
from zoo.quantize.weight_only import apply_weight_only, packed, restored, rounded, unpacked, weight_only
from zoo.run.model import build_bare_model

KINDS = {"int8": {}, "int4": {"bits": 4, "group": 64}, "dynamic": {"dynamic": True}}
# (model, data, kind): the largest allowed file size relative to the float one
RATIOS = {
    ("lenet300", "mnist_5k", "int8"): 0.26,
    ("lenet300", "mnist_5k", "int4"): 0.15,
    ("lenet5_1998", "mnist_5k", "int8"): 0.35,  # one scale per 25 weights
    ("resnet20", "mnist_5k", "int8"): 0.29,
    ("vit_tiny", "mnist_5k", "dynamic"): 0.27,
    ("transformer", "reverse", "dynamic"): 0.27,
    ("lstm_seq2seq", "reverse", "int4"): 0.16,
    ("lstm_seq2seq", "reverse", "dynamic"): 0.28,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with float and integer products of each net, and the outputs of the integer nets."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    for model, data, kind in RATIOS:
        cfg = composed(model, data)
        net, given = build_bare_model(cfg.model).eval(), inputs_of(cfg, 3)
        name, facts = f"{model}_{kind}", facts_of(cfg)
        save_product(folder / f"{name}_float.safetensors", net.state_dict(), facts)
        with torch.no_grad():
            logits = net(*given)
            step = weight_only(net, **KINDS[kind])
            torch.save((given, net(*given), logits), folder / f"{name}.pt")
        save_product(folder / f"{name}.safetensors", net.state_dict(), {**facts, "recipe": [step]})
    cfg = composed("lenet5_caffe", "mnist_5k")
    (images,) = inputs_of(cfg, 3)
    program, tensors = ptq(traced(build_bare_model(cfg.model), (images[:1].to("meta"),)), [(images, None)], 1)
    step = {"pass": "ptq_int8", "num_batches": 1, "float_layers": [], "program": program}
    save_product(folder / "int8.safetensors", tensors, facts_of(cfg, [step]))
    torch.save(((images,), deserialize(program, tensors, "the net")(images), None), folder / "int8.pt")
    return folder


def test_another_process_reads_equal_nets_from_their_files_without_torchao(files):
    code = (
        "import glob, sys, torch; sys.modules['torchao'] = None\n"
        "import zoo.run, zoo.inference.evaluate\n"
        "from zoo.checkpoint.product_file import read_product\n"
        "from zoo.checkpoint.load_model import load_model\n"
        "torch.set_grad_enabled(False)\n"  # with gradients an LSTM uses another kernel
        "for file in glob.glob('*.pt'):\n"
        "    given, wanted, _ = torch.load(file, weights_only=True)\n"
        "    net = load_model(read_product(file.replace('.pt', '.safetensors'))).eval()\n"
        "    print(file, net(*given).equal(wanted))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=files)
    said = dict(line.split() for line in done.stdout.splitlines())
    assert said == {"int8.pt": "True"} | {f"{model}_{kind}.pt": "True" for model, _, kind in RATIOS}


@pytest.mark.parametrize(("model", "data", "kind"), RATIOS)
def test_the_file_is_smaller_and_the_net_near_the_float_one(files, model, data, kind):
    name = f"{model}_{kind}"
    size, before = ((files / f"{name}{end}.safetensors").stat().st_size for end in ("", "_float"))
    assert size < RATIOS[model, data, kind] * before
    _, found, logits = torch.load(files / f"{name}.pt", weights_only=True)
    error = (found - logits).abs().max() / logits.abs().max()
    assert 0 < error < (0.25 if kind == "int4" else 0.04)


def test_numbers_and_scales_are_those_of_torchs_own_rounding():
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3)
    weight[2] = 0  # like a pruned channel
    numbers, scale = rounded(weight, 8, None)
    assert (numbers.dtype, numbers.shape, scale.shape) == (torch.int8, weight.shape, (6, 1))
    zeros = torch.zeros(6, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(weight, scale[:, 0], zeros, 0, -127, 127)
    assert restored(numbers, scale, weight.shape, None).equal(theirs)
    assert numbers.flatten(1).abs().amax(1).tolist() == [127, 127, 0, 127, 127, 127]


def test_each_group_has_its_own_scale_and_the_last_may_be_short():
    torch.manual_seed(0)
    weight = torch.randn(4, 10) * torch.logspace(-3, 3, 10)
    numbers, scale = rounded(weight, 4, 4)
    assert scale.shape == (4, 3)
    for i, columns in enumerate((slice(0, 4), slice(4, 8), slice(8, 10))):
        torch.testing.assert_close(scale[:, i], weight[:, columns].abs().amax(1) / 7)
        error = (restored(numbers, scale, weight.shape, 4) - weight)[:, columns].abs()
        assert (error <= 0.5001 * scale[:, i : i + 1]).all()
    assert restored(packed(numbers), scale, weight.shape, 4).equal(restored(numbers, scale, weight.shape, 4))


def test_two_numbers_of_four_bits_are_a_byte():
    numbers = torch.tensor([[-7, 7, 0]], dtype=torch.int8)
    content = packed(numbers)
    assert content.tolist() == [0xF1, 0x08]
    assert unpacked(content, 3).tolist() == [-7, 7, 0]


def test_an_lstm_computes_with_its_rounded_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.LSTM(6, 8, 2, batch_first=True)).eval()
    other, x = copy.deepcopy(net), torch.randn(3, 5, 6)
    weight_only(net, bits=4)
    for parameter in other.parameters():
        if parameter.ndim > 1:
            parameter.data = restored(*rounded(parameter.data, 4, None), parameter.shape, None)
    assert copy.deepcopy(net)(x)[0].equal(other(x)[0])
    assert net.double()(x.double())[0].dtype == torch.float64


def test_linear_layers_and_attention_multiply_integers_each_token_by_its_own_scale():
    torch.manual_seed(0)
    net = nn.ModuleDict({"linear": nn.Linear(6, 4), "attention": Attention(6, 2)})
    nn.init.normal_(net.attention.in_proj_weight)
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    x = torch.randn(2, 3, 6) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
    weight_only(net, dynamic=True)

    def by_hand(weight, bias):
        """Multiply in float64, which holds such sums exactly."""
        (a, s), (b, t) = (rounded(one.flatten(0, -2), 8, None) for one in (x, weight))
        return ((a.double() @ b.double().T).float() * s * t.T + bias).unflatten(0, (2, 3))

    assert net.linear(x).equal(by_hand(weights["linear.weight"], weights["linear.bias"]))
    q, k, v = by_hand(weights["attention.in_proj_weight"], weights["attention.in_proj_bias"]).chunk(3, 2)
    (ours,) = net.attention.project(x, 1, 2)
    assert ours.equal(k.unflatten(2, (2, 3)).transpose(1, 2))
    assert torch.stack(list(net.attention.project(x, 0, 3))).transpose(2, 3).flatten(3).equal(torch.stack([q, k, v]))


def test_layers_that_are_to_stay_in_floats_do():
    net = build_bare_model(composed("lenet5_caffe", "mnist_5k").model)
    step = weight_only(net, float_layers=["conv*"])
    assert step["layers"] == ["ip1", "ip2"]
    kinds = {name: tensor.dtype for name, tensor in net.state_dict().items() if name.endswith(".weight")}
    assert {name for name, kind in kinds.items() if kind == torch.int8} == {"ip1.weight", "ip2.weight"}


def test_such_a_net_can_be_exported():
    net = build_bare_model(composed("lenet5_caffe", "mnist_5k").model).eval()
    images = torch.randn(2, 1, 28, 28)
    weight_only(net, bits=4, group=32)
    exported = torch.export.export(net, (images,), strict=True)
    assert exported.module()(images).equal(net(images))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 3}, "bits=3 is not a supported width; choose from 4, 8"),
        ({"group": 0}, "group: expected a whole number of at least 1, or null for one scale per channel, got 0"),
        ({"group": "all"}, "group: expected a whole number of at least 1, or null for one scale per channel, got all"),
        ({"bits": 4, "dynamic": True}, "dynamic=true multiplies in int8"),
        ({"float_layers": ["ip3"]}, "did you mean ip2 or ip1?"),
        ({"float_layers": ["*"]}, "LeNet5Caffe has no layer left"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(settings, words):
    with pytest.raises(BadInput) as refusal:
        weight_only(build_bare_model(composed("lenet5_caffe", "mnist_5k").model), **settings)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"layers": ["conv9"]}, "conv9"),
        ({"layers": ["pool"]}, "no weights"),
        ({"bits": 3}, "3"),
        ({"group": 0}, "by zero"),
        ({"group": "all"}, "'str'"),
    ],
)
def test_a_recipe_of_another_net_is_refused(other, words):
    step = {"pass": "weight_only", "bits": 8, "group": None, "dynamic": False, "layers": ["conv1"], **other}
    with pytest.raises(BadInput, match=f"step weight_only does not fit this net.*{words}"):
        apply_weight_only(build_bare_model(composed("lenet5_caffe", "mnist_5k").model), [step])


def test_a_run_of_a_sequence_net_multiplies_in_int8_and_tests_that(command, tmp_path):
    line = ["data=reverse", "model=lstm_seq2seq", "data.num_pairs=500", "model.width=64", "trainer=smoke"]
    assert command("train", *line, "name=floats").code == 0
    (source,) = tmp_path.glob("runs/floats/*/model.safetensors")
    line += [f"init_from={source}", "trainer.max_epochs=0"]
    assert command("train", *line, "compress=dynamic_int8", "name=int8").code == 0
    (folder,) = tmp_path.glob("runs/int8/*")
    result = json.loads((folder / "result.json").read_text())
    told = result["compress"]["int8"]["float"]
    assert result["product_bytes"] < 0.32 * told["product_bytes"]
    assert result["test"]["loss"] == pytest.approx(told["test"]["loss"], rel=0.02)
    assert command("evaluate", f"checkpoint={folder}/model.safetensors", "batch_size=2").code == 0
    assert load_model(read_product(folder / "model.safetensors")).head.weight.is_floating_point()

    again = command("train", *line, f"init_from={folder}/model.safetensors", "compress=weight_int4")
    assert (again.code, "is already quantized" in again.sentence) == (2, True)
