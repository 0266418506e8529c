"""The product file: it is restored exactly, and anything else is refused."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from small import FACTS as SMALL

from zoo.checkpoint.product_file import load_weights, provenance, read_product, save_product
from zoo.errors import BadInput
from zoo.models.googlenet import GoogLeNet
from zoo.models.lenet import LeNet5, LeNet300
from zoo.models.resnet import ResNet
from zoo.packed.header import facts_text
from zoo.records.metadata import FORMAT, parse_metadata

FACTS = {**SMALL, "config": {**SMALL["config"], "name": "é", "notes": [1, None, 2.5]}}


@pytest.fixture
def product(tmp_path):
    net = ResNet("basic", [1, 1], [8, 16], 1, 10, 28).to(memory_format=torch.channels_last)
    save_product(tmp_path / "model.safetensors", net.state_dict(), FACTS)
    return net, tmp_path / "model.safetensors"


def test_another_process_reads_back_every_bit(product):
    net, path = product
    code = (
        "import sys, torch; from zoo.checkpoint.product_file import read_product, load_weights\n"
        "from zoo.models.resnet import ResNet\n"
        "net = ResNet('basic', [1, 1], [8, 16], 1, 10, 28).eval(); load_weights(net, read_product(sys.argv[1]));"
        "print([float(v).hex() for v in net(torch.ones(1, 1, 28, 28))[0]])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    contiguous = ResNet("basic", [1, 1], [8, 16], 1, 10, 28).eval()
    contiguous.load_state_dict(net.state_dict())
    assert done.stdout.strip() == str([float(v).hex() for v in contiguous(torch.ones(1, 1, 28, 28))[0].detach()])


def test_facts_come_back_equal(product):
    facts = read_product(product[1]).facts
    assert facts == {"format": FORMAT, **FACTS}


def test_the_file_is_plain_safetensors_that_anyone_can_open(product):
    net, path = product
    assert safetensors.torch.load_file(path).keys() == net.state_dict().keys()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9, 0.9999])
def test_a_file_cut_short_is_refused(product, share):
    content = product[1].read_bytes()
    product[1].write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadInput, match="truncated"):
        read_product(product[1])


def test_any_changed_byte_is_refused(product):
    content = bytearray(product[1].read_bytes())
    draw = torch.Generator().manual_seed(0)
    for position in torch.randint(len(content), (200,), generator=draw).tolist():
        changed = content.copy()
        changed[position] ^= 1 << (position % 8)
        product[1].write_bytes(changed)
        with pytest.raises(BadInput):
            read_product(product[1])


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    safetensors.torch.save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="not one that train"):
        read_product(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("name", ["model.pte", "model.c"])
def test_an_export_that_is_not_read_back_is_said_to_be_one(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(BadInput, match=f"{name} is an exported file, which is only run when it is written"):
        read_product(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="there is no file"):
        read_product(tmp_path / "model.safetensors")


@pytest.mark.parametrize("change", [{"format": FORMAT - 1}, {"format": FORMAT + 1}])
def test_a_file_of_another_version_is_refused(tmp_path, change):
    save_product(tmp_path / "x.safetensors", LeNet300().state_dict(), {**FACTS, **change})
    with pytest.raises(BadInput, match=f"reads format {FORMAT}"):
        read_product(tmp_path / "x.safetensors")


def test_weights_of_another_net_are_refused_and_leave_the_net_as_it_was(product):
    net = LeNet5()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(BadInput, match=r"another net: '\S+' is"):
        load_weights(net, read_product(product[1]))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_head_of_another_size_is_left_only_where_that_is_asked_for(product):
    bigger = ResNet("basic", [1, 1], [8, 16], 1, 37, 28)
    with pytest.raises(BadInput, match="another net"):
        load_weights(bigger, read_product(product[1]))
    head = bigger.fc.weight.detach().clone()
    assert load_weights(bigger, read_product(product[1]), replace_head=True) == ["fc.weight", "fc.bias"]
    assert torch.equal(bigger.fc.weight, head)
    assert torch.equal(bigger.conv1.weight, product[0].conv1.weight)


def test_auxiliary_heads_are_left_with_the_main_one(tmp_path):
    save_product(tmp_path / "x.safetensors", GoogLeNet(1, 10, 28).state_dict(), FACTS)
    left = load_weights(GoogLeNet(1, 37, 28), read_product(tmp_path / "x.safetensors"), replace_head=True)
    assert sorted(left) == [f"{head}.{part}" for head in ("aux1.fc2", "aux2.fc2", "fc") for part in ("bias", "weight")]


def test_a_body_of_another_size_is_refused_even_where_the_head_may_differ(product):
    colour = ResNet("basic", [1, 1], [8, 16], 3, 10, 28)
    with pytest.raises(BadInput, match=r"conv1.weight"):
        load_weights(colour, read_product(product[1]), replace_head=True)


def test_provenance_names_versions_and_is_plain_data():
    facts = json.loads(json.dumps(provenance()))
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    "change",
    [torch.Tensor.int, torch.Tensor.bool, lambda weight: weight.mul(100).to(torch.uint8)],
    ids=["int", "bool", "uint8"],
)
def test_numbers_of_another_kind_are_not_taken_for_weights(product, change):
    net, path = product
    changed = {**net.state_dict(), "fc.weight": change(net.fc.weight.detach())}
    save_product(path, changed, FACTS)
    before = net.fc.weight.clone()
    with pytest.raises(BadInput, match=r"expected torch\.float32 of 'fc\.weight', got torch\."):
        load_weights(net, read_product(path))
    assert net.fc.weight.equal(before)


def test_weights_that_must_be_rounded_are_told_of_and_those_that_need_not_be_are_not(product, caplog):
    net, path = product
    weights = {name: w.double() if w.is_floating_point() else w for name, w in net.state_dict().items()}
    save_product(path, weights, FACTS)
    load_weights(net, read_product(path))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} holds weights in float64, which are rounded here."
    ]
    caplog.clear()
    weights = {name: w.bfloat16() if w.is_floating_point() else w for name, w in net.state_dict().items()}
    save_product(path, weights, FACTS)
    load_weights(net, read_product(path))
    assert not caplog.records
    assert net.fc.weight.equal(weights["fc.weight"].float())


@pytest.mark.parametrize(("number", "word"), [(torch.nan, "NaN"), (torch.inf, "infinity"), (-torch.inf, "infinity")])
def test_weights_that_are_no_numbers_are_refused(product, number, word):
    net, path = product
    weights = {name: w.clone() for name, w in net.state_dict().items()}
    weights["fc.weight"][3, 1] = number
    save_product(path, weights, FACTS)
    with pytest.raises(BadInput, match=rf"'fc\.weight' holds {word}"):
        load_weights(net, read_product(path))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.complex64])
def test_numbers_that_no_net_has_are_refused(product, dtype):
    net, path = product
    save_product(path, {**net.state_dict(), "fc.weight": net.fc.weight.detach().to(dtype)}, FACTS)
    with pytest.raises(BadInput, match=r"'fc\.weight' is of torch\.\w+, which no net of the zoo uses"):
        read_product(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[" * 200_000 + "]" * 200_000, "recursion|depth"), ("[[]," * 300_000, "more than 400,000 lists and mappings")],
)
def test_metadata_of_too_many_parts_are_refused_before_they_are_read(text, words):
    with pytest.raises(BadInput, match=words):
        parse_metadata(text, "a file")


def test_a_config_of_too_many_entries_is_refused():
    """Each alone was short enough; twenty of 100,000 kept OmegaConf busy for minutes."""
    data = {**FACTS["config"]["data"], "x": [[1] * 5000 for _ in range(5)]}
    text = facts_text({**FACTS, "config": {**FACTS["config"], "data": data}})
    with pytest.raises(BadInput, match="config has more than 20,000 entries"):
        parse_metadata(text, "a file")
