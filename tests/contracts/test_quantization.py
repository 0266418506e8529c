"""Every image net can be quantized to int8, every net to integer weights, and read back from a smaller file."""

import pytest
import torch
from conftest import composed, inputs_of
from small import facts_of

from zoo.catalogue import matches
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product, save_product
from zoo.quantize.pt2e import traced
from zoo.quantize.ptq_int8 import ptq
from zoo.quantize.weight_only import weight_only
from zoo.run.model import build_bare_model

pytestmark = pytest.mark.slow
PAIRS = [pair for pair in matches() if pair[1] in ("fashion_mnist", "reverse")]


def a_net(model, data):
    """Return a net with random weights, two samples, and its facts."""
    torch.manual_seed(0)
    cfg = composed(model, data)
    return build_bare_model(cfg.model).eval(), inputs_of(cfg, 2), facts_of(cfg)


def smaller(path, net, state, facts, given):
    """Return the outputs of the net that is read back, and its file size relative to the float net's."""
    save_product(path / "floats.safetensors", net.state_dict(), {**facts, "recipe": []})
    save_product(path / "integers.safetensors", state, facts)
    sizes = [(path / f"{name}.safetensors").stat().st_size for name in ("integers", "floats")]
    return load_model(read_product(path / "integers.safetensors")).eval()(*given), sizes[0] / sizes[1]


@pytest.mark.parametrize("model", [model for model, data in PAIRS if data == "fashion_mnist"])
@torch.no_grad()
def test_a_net_of_images_in_int8(tmp_path, model):
    net, given, facts = a_net(model, "fashion_mnist")
    logits = net(*given)
    program, tensors = ptq(traced(net, (given[0][:1].to("meta"),)), [(given[0], None)], 1)
    facts["recipe"] = [{"pass": "ptq_int8", "num_batches": 1, "float_layers": [], "program": program}]
    found, share = smaller(tmp_path, net, tensors, facts, given)
    assert 0 < (found - logits).abs().max() < 0.1 * logits.abs().max()
    assert share < 0.36


@pytest.mark.parametrize("settings", [{}, {"bits": 4, "group": 64}, {"dynamic": True}], ids=str)
@pytest.mark.parametrize(("model", "data"), PAIRS)
@torch.no_grad()
def test_a_net_with_integers_for_weights(tmp_path, model, data, settings):
    net, given, facts = a_net(model, data)
    other, _, _ = a_net(model, data)
    facts["recipe"] = [weight_only(other, **settings)]
    found, share = smaller(tmp_path, net, other.state_dict(), facts, given)
    assert found.equal(other(*given))
    of_four_bits = "bits" in settings
    error = (found - net(*given)).abs().max() / net(*given).abs().max()
    assert error < (0.7 if of_four_bits else 0.1)  # a tenth per layer, which random weights propagate
    assert share < (0.25 if of_four_bits else 0.36)
