"""The contract of every net for every image data set."""

import pytest
import torch
from conftest import composed, inputs_of, options
from torch import nn

from zoo.catalogue import matches
from zoo.measure.counts import count_macs_of, count_parameters
from zoo.run.model import build_bare_model

MODELS = options("model")
PAIRS = [pair for pair in matches() if pair[1] not in ("image_table", "shards", "arrow_folder")]  # as image_folder


def num_outputs(cfg):
    return cfg.data.num_classes if "image_size" in cfg.data else cfg.data.num_target_tokens


def size_of(head):
    return head.num_embeddings if isinstance(head, nn.Embedding) else head.out_features


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_it_builds_and_gives_a_logit_a_class_or_a_token(model, data):
    cfg = composed(model, data)
    one, two = ([x.to("meta") for x in inputs_of(cfg, batch)] for batch in (1, 2))
    with torch.device("meta"):
        net = build_bare_model(cfg.model).eval()
        tokens = two[1].shape[1:] if len(two) > 1 else ()
        for batch, inputs in ((1, one), (2, two)):
            assert net(*inputs).shape == (batch, *tokens, num_outputs(cfg))
        output = net.train()(*two)
    for logits in (output[0], *output[1]) if isinstance(output, tuple) else (output,):
        assert logits.shape == (2, *tokens, num_outputs(cfg))
    assert {size_of(net.get_submodule(name)) for name in net.head_names} == {num_outputs(cfg)}
    assert count_macs_of(net.eval(), tuple(one)) > count_parameters(net) / 100


@pytest.fixture(scope="module")
def smallest():
    """A net at its smallest shape, with eight samples of noise and different labels."""

    def make(model):
        torch.manual_seed(0)
        cfg = composed(model, "mnist_5k" if (model, "mnist_5k") in PAIRS else "reverse")
        inputs = inputs_of(cfg, 8)
        labels = torch.arange(8) if len(inputs) == 1 else torch.cat([inputs[1][:, 1:], torch.full((8, 1), 2)], 1)
        return build_bare_model(cfg.model), inputs, labels

    return make


def loss_of(output, labels):
    """Cross-entropy over all heads and tokens; a net with auxiliary heads returns (main, others)."""
    main, aux = output if isinstance(output, tuple) else (output, ())
    heads = (head.flatten(0, -2) for head in (main, *aux))
    return sum(nn.functional.cross_entropy(head, labels.flatten()) for head in heads)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_gets_a_finite_gradient_and_bf16_stays_finite(smallest, model):
    net, inputs, labels = smallest(model)
    # Forward only, since not every CPU has bf16 arithmetic, which LSTMs need even for that.
    known = torch.ops.mkldnn._is_mkldnn_bf16_supported() or not any(isinstance(m, nn.RNNBase) for m in net.modules())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=known):
        assert loss_of(net(*(x[:2] for x in inputs)), labels[:2]).isfinite()
    loss_of(net(*(x[:4] for x in inputs)), labels[:4]).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("model", MODELS)
def test_it_overfits_eight_samples_to_zero_error(smallest, model):
    net, inputs, labels = smallest(model)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # dropout exists to prevent overfitting
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)
    for _ in range(200):
        optimizer.zero_grad()
        output = net(*inputs)
        loss = loss_of(output, labels)
        logits = output[0] if isinstance(output, tuple) else output
        if logits.argmax(-1).equal(labels) and loss < 0.5:
            return
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss is still {loss:.3f} after 200 steps")


@pytest.mark.parametrize("model", MODELS)
def test_torch_export_gives_an_equal_net(smallest, model):
    net, inputs, _ = smallest(model)
    net.eval()
    two = tuple(x[:2] for x in inputs)
    exported = torch.export.export(net, two, strict=True).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(*two), net(*two))
