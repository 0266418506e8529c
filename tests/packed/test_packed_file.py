"""The packed file: it is restored exactly, all its bytes are accounted for, and anything else is refused."""

import hashlib
import json
import subprocess
import sys
import zlib

import pytest
import torch
from small import FACTS as SMALL
from small import facts_of

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product, save_product
from zoo.errors import BadInput
from zoo.models.lenet import LeNet5, LeNet300
from zoo.models.resnet import ResNet
from zoo.packed.header import COMMON
from zoo.packed.packed_file import MAGIC, VERSION, pack, read_packed, save_packed
from zoo.packed.size_report import MOST_DRAWN, Row, SizeReport, draw_size_report, show_size_report
from zoo.records.metadata import FORMAT
from zoo.records.metadata import MAX_BYTES as MOST_BYTES

FACTS = {**SMALL, "config": {**SMALL["config"], "name": "ü", "odd": [1, None, 0.1]}}


def small_weights():
    """Draw weights of a net with batch norms, pruned to a tenth with seven values; statistics are not 0 and 1."""
    torch.manual_seed(0)
    weights = ResNet("basic", [1, 1], [4, 8], 1, 10, 28).state_dict()
    for name, weight in weights.items():
        if weight.ndim > 1:
            shared = (weight / weight.abs().max() * 3.49).round() / 4
            weights[name] = torch.where(torch.rand_like(weight) < 0.1, shared, 0.0)
        elif name.endswith("running_var"):
            weight.uniform_(0.5, 2)
        elif name.endswith("num_batches_tracked"):
            weight.fill_(4300)
    return weights


@pytest.fixture
def packed(tmp_path):
    weights = small_weights()
    ledger = save_packed(tmp_path / "model.zoo", weights, FACTS)
    return weights, tmp_path / "model.zoo", ledger


def forged(path, text, code=b"", version=VERSION, ending=b""):
    """Write a file with a valid checksum, assembled according to the format description."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, 0, COMMON)
    head, body = MAGIC + bytes([version]), coder.compress(text.encode()) + coder.flush() + code + ending
    path.write_bytes(head + hashlib.sha256(head + body).digest()[:16] + body)
    return path


def promised(shape, **facts):
    return json.dumps({"shapes": {"w": shape}, "facts": {"format": FORMAT, "recipe": [], **facts}})


def test_weights_and_facts_come_back_equal(packed):
    weights, path, _ = packed
    product = read_product(path)
    assert product.path == path
    assert product.facts == {"format": FORMAT, **FACTS}
    assert list(product.weights) == list(weights)
    for name, weight in weights.items():
        assert torch.equal(product.weights[name], weight)
        assert product.weights[name].dtype == weight.dtype


def test_another_process_computes_the_same_logits(packed):
    weights, path, _ = packed
    code = (
        "import sys, torch; from zoo.checkpoint.product_file import read_product\n"
        "from zoo.checkpoint.load_model import load_model\n"
        "net = load_model(read_product(sys.argv[1])).eval()\n"
        "print([float(v).hex() for v in net(torch.ones(1, 1, 28, 28))[0]])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    net = ResNet("basic", [1, 1], [4, 8], 1, 10, 28).eval()
    net.load_state_dict(weights)
    assert done.stdout.strip() == str([float(v).hex() for v in net(torch.ones(1, 1, 28, 28))[0].detach()])


def test_it_is_known_by_its_first_bytes_whatever_it_is_called(packed, tmp_path):
    weights, path, _ = packed
    path.rename(tmp_path / "model.safetensors")
    save_product(path, weights, FACTS)
    assert all(torch.equal(read_product(tmp_path / "model.safetensors").weights[k], w) for k, w in weights.items())
    assert all(torch.equal(read_product(path).weights[k], w) for k, w in weights.items())


def test_every_length_it_may_be_cut_to_is_refused(packed, tmp_path):
    content = packed[1].read_bytes()
    assert len(content) < 3000
    for length in range(len(content)):
        packed[1].write_bytes(content[:length])
        with pytest.raises(BadInput, match="truncated"):
            read_product(packed[1])


def test_any_flipped_bit_is_refused(packed):
    content = packed[1].read_bytes()
    draw = torch.Generator().manual_seed(0)
    for bit in torch.randint(8 * len(content), (1000,), generator=draw).tolist() + list(range(8 * 21)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        packed[1].write_bytes(changed)
        with pytest.raises(BadInput, match=r"changed after it was written|neither a safetensors file nor a packed one"):
            read_product(packed[1])


def test_a_longer_file_is_refused(packed):
    packed[1].write_bytes(packed[1].read_bytes() + b"\0")
    with pytest.raises(BadInput, match="checksum"):
        read_product(packed[1])


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x89ZOO", b"\x89ZOO\x01" + bytes(99)]
)
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "x.zoo").write_bytes(content)
    with pytest.raises(BadInput, match="truncated"):
        read_product(tmp_path / "x.zoo")


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused(tmp_path, version):
    with pytest.raises(BadInput, match=f"packed file of version {version}, and this zoo reads version 1"):
        read_product(forged(tmp_path / "x.zoo", promised([2]), version=version))


def test_metadata_of_another_version_are_refused(tmp_path):
    save_packed(tmp_path / "x.zoo", small_weights(), {**FACTS, "format": FORMAT + 1})
    with pytest.raises(BadInput, match=f"format {FORMAT + 1}"):
        read_product(tmp_path / "x.zoo")


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ([10**6, 10**6], "4 bytes cannot hold the 1,000,000,000,000 weights it promises"),
        ([10**30], "out of range|cannot hold|Expected"),
        ([2**21], "4 bytes cannot hold the 2,097,152 weights"),
        ([-1, -5], r"Expected `int` >= 0"),
        ([2.5], "Expected `int`, got `float`"),
        ("12", "Expected `array`, got `str`"),
        (None, "not a packed file that the zoo wrote"),
    ],
)
def test_sizes_that_the_bytes_cannot_hold_are_refused_before_memory_is_taken(tmp_path, shape, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_product(forged(tmp_path / "x.zoo", promised(shape), bytes(4)))


@pytest.mark.parametrize(
    ("shape", "code", "sentence"),
    [
        ([2**12, 2**13], 4000, "4,000 bytes cannot hold the 33,554,432"),
        ([2, 2**21], 10**6, "layers of 2,097,152 inputs"),
    ],
)
def test_sizes_that_no_file_of_ours_has_are_refused(tmp_path, shape, code, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_product(forged(tmp_path / "x.zoo", promised(shape), bytes(code)))


def test_what_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.packed.packed_file.MOST_SPARE", 0)
    with pytest.raises(BadInput, match=r"cannot be packed: .* bytes cannot hold the 4,000,000 weights"):
        save_packed(tmp_path / "x.zoo", {"w": torch.zeros(2000, 2000)}, FACTS)
    assert not (tmp_path / "x.zoo").exists()


def test_weights_are_compared_with_the_net_before_they_are_decoded(tmp_path, monkeypatch):
    """Nets with another shape, with a tensor too many, and with one missing, each of which would take memory."""
    monkeypatch.setattr("zoo.packed.packed_file.decode", lambda code, shapes: pytest.fail("it was decoded"))
    weights = small_weights()
    for name, changed in (("fc.bias", torch.zeros(11)), ("fc.more", torch.zeros(10)), ("fc.bias", None)):
        forged_weights = {key: weight for key, weight in weights.items() if key != name}
        save_packed(tmp_path / "x.zoo", forged_weights | ({} if changed is None else {name: changed}), FACTS)
        with pytest.raises(BadInput, match=f"weights of another net: '{name}' is"):
            read_product(tmp_path / "x.zoo")


def test_sizes_that_do_not_fit_the_memory_are_refused(tmp_path, monkeypatch):
    path = forged(tmp_path / "x.zoo", promised([2**14, 1000]), bytes(1000))
    monkeypatch.setattr("zoo.memory.available_bytes", lambda: 2**26)
    with pytest.raises(BadInput, match=r"the 16,384,000 weights it promises do not fit into the 0\.1 GB"):
        read_product(path)


@pytest.mark.parametrize("text", ["{}", "[", '{"shapes": {}}', '{"shapes": [1], "facts": {}}', " " * (MOST_BYTES + 1)])
def test_a_text_that_is_not_ours_is_refused(tmp_path, text):
    with pytest.raises(BadInput, match="not a packed file that the zoo wrote"):
        read_product(forged(tmp_path / "x.zoo", text))


def test_a_code_that_is_not_ours_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not a packed file that the zoo wrote"):
        read_packed(forged(tmp_path / "x.zoo", promised([3, 4]), b"\xff" * 40))


def test_a_tensor_that_cannot_be_coded_is_refused_and_the_file_left(packed):
    before = packed[1].read_bytes()
    with pytest.raises(BadInput, match="there is no code for"):
        save_packed(packed[1], {"w": torch.zeros(2, dtype=torch.complex64)}, FACTS)
    assert packed[1].read_bytes() == before


def test_half_rounds_to_float16_but_not_to_infinity(tmp_path):
    weights = {"w": torch.randn(40, 30), "var": torch.tensor([1.0, 1e6]), "n": torch.tensor(3)}
    save_packed(tmp_path / "x.zoo", weights, FACTS, half=True)
    back = read_packed(tmp_path / "x.zoo")[0]
    assert torch.equal(back["w"], weights["w"].half().float())
    assert torch.equal(back["var"], weights["var"])
    assert (back["n"], back["n"].dtype) == (3, torch.int64)


def test_bfloat16_saves_three_bits_a_number_that_is_not_shared(tmp_path):
    weights = {"w": torch.randn(4000)}
    sizes = [save_packed(tmp_path / "x.zoo", weights, FACTS, half).size_bytes for half in (True, "bfloat16")]
    assert torch.equal(read_packed(tmp_path / "x.zoo")[0]["w"], weights["w"].bfloat16().float())
    assert sizes[0] - sizes[1] == pytest.approx(3 * 4000 / 8, rel=0.01)


def test_another_half_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(BadInput, match="half=bf16 must be true, for float16, or false, or bfloat16"):
        save_packed(tmp_path / "x.zoo", {"w": torch.randn(4)}, FACTS, half="bf16")
    assert not list(tmp_path.iterdir())


def test_the_ledger_sums_to_the_size_on_the_disk(packed, tmp_path):
    weights, path, ledger = packed
    size = path.stat().st_size
    plain = json.loads(json.dumps(ledger.plain()))
    assert plain["bytes"] == size
    assert sum(r["mask"] + r["codebook"] + r["values"] for r in plain["rows"]) + sum(plain["rest"].values()) == size
    assert plain["ratio"] == sum(w.numel() * w.element_size() for w in weights.values()) / size
    assert [row["name"] for row in plain["rows"]] == list(weights)
    assert [row["num_survivors"] for row in plain["rows"]] == [int(w.count_nonzero()) for w in weights.values()]
    assert all(value >= 0 for row in plain["rows"] for key, value in row.items() if key != "name")
    assert {"packed/bytes", "packed/ratio", "packed/fc_bytes"} <= ledger.scalars().keys()


def test_the_ledger_is_printed_and_drawn_layer_by_layer(packed, capsys):
    _, _, ledger = packed
    show_size_report(ledger, "a title")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["fc"] for line in lines)
    assert any(line.split()[:3] == ["the", "file", f"{ledger.size_bytes:,}"] for line in lines)
    axes = draw_size_report(ledger, "a title").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*(r.name for r in ledger.by_layer()), "the rest"]


@pytest.mark.parametrize(("values", "share"), [(42, "75%"), (82, "125%")])
def test_a_layer_that_takes_more_than_its_entropy_is_printed_so(capsys, values, share):
    row = Row("fc.weight", 100, 100, 4, 400, 8, 10, values, 80.0, 90.0)  # mask, codebook, values; entropy
    show_size_report(SizeReport([row], {}), "a title")
    (cells,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["fc"])
    assert cells[-3:] == ["80", share, "90"]


def test_of_many_layers_the_largest_are_drawn_and_the_others_are_one_bar():
    rows = [Row(f"layers.{i}.weight", 9, 9, 0, 36, 1, 2, i, 3.0, 4.0) for i in range(99)]
    axes = draw_size_report(SizeReport(rows, {"header": 5}), "many").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*(f"layers.{i}" for i in range(99 - MOST_DRAWN, 99)), f"{99 - MOST_DRAWN} others", "the rest"]


def test_what_every_file_says_takes_a_few_hundred_bytes(compose):
    """For a net of 3 kB, the size of the container matters."""
    cfg = compose("model=lenet300", "data=fashion_mnist")
    facts = facts_of(cfg)
    _, ledger = pack(LeNet300().state_dict(), facts)
    assert len(json.dumps(facts)) > 1500
    assert ledger.rest["facts"] < 260
    assert ledger.rest["header"] + ledger.rest["checksum"] == 21


def test_the_dictionary_of_version_1_is_for_ever():
    """Files of version 1 cannot be read with another one; if this fails, the version must be increased."""
    assert VERSION == 1
    assert hashlib.sha256(COMMON).hexdigest()[:16] == "b01f567e841aaaea"


def test_it_is_exported_evaluated_and_begun_from_as_a_product_is(command, toy, teacher, only_run):
    folder = only_run()
    done = command("scripts/export", f"checkpoint={teacher}", "format=[zoo]")
    assert done.code == 0, done.err
    assert f"{(folder / 'model.zoo').stat().st_size:,}" in done.out
    assert (folder / "ledger.png").stat().st_size > 5000
    figures = []
    for file, written in (("model.safetensors", "evaluation.json"), ("model.zoo", "evaluation_model.zoo.json")):
        place = folder if file == "model.safetensors" else folder / file  # a run folder is resolved to its product
        assert command("evaluate", f"checkpoint={place}", "accelerator=cpu").code == 0
        figures.append(json.loads((folder / written).read_text()))
        assert figures[-1].pop("checkpoint").endswith(file)
        assert figures[-1].pop("sha256") == hashlib.sha256((folder / file).read_bytes()).hexdigest()
    assert figures[0] == figures[1]
    done = command("train", *toy, f"init_from={folder / 'model.zoo'}", "trainer.max_epochs=1")
    assert done.code == 0, done.err


def test_an_unknown_format_is_refused(command):
    done = command("scripts/export", "checkpoint=x", "format=zo")
    assert done.code == 2
    assert "format=zo " in done.sentence
    assert done.sentence.endswith("did you mean zoo?")


def test_weights_of_another_net_are_refused(tmp_path):
    save_packed(tmp_path / "x.zoo", LeNet5().state_dict(), FACTS)
    with pytest.raises(BadInput, match="more parameters than the file has tensors"):
        load_model(read_product(tmp_path / "x.zoo"))


def test_tensors_that_no_program_reads_are_refused_before_they_are_decoded(tmp_path):
    step = {"pass": "ptq_int8", "num_batches": 1, "float_layers": [], "program": [["input"], ["output", {"result": 0}]]}
    save_packed(tmp_path / "x.zoo", {"weight": torch.zeros(3)}, {**FACTS, "recipe": [step]})
    with pytest.raises(BadInput, match="not the ones its program reads"):
        read_product(tmp_path / "x.zoo")
    save_packed(tmp_path / "x.zoo", {f"w{i}": torch.zeros(0) for i in range(20_001)}, FACTS)
    with pytest.raises(BadInput, match="length <= 20000"):
        read_product(tmp_path / "x.zoo")
