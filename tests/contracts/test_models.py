"""What every net promises for every image data set."""

import pytest
import torch
from conftest import options
from torch import nn

from zoo.measure.counts import count_macs, count_parameters
from zoo.nets import bare_net

MODELS, DATA = options("model"), options("data")


def shape_of(cfg):
    return cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_it_builds_and_gives_a_logit_a_class(compose, model, data):
    cfg = compose(f"model={model}", f"data={data}")
    if cfg.data.num_classes is None:  # only the data themselves know
        cfg = compose(f"model={model}", f"data={data}", "data.num_classes=7")
    with torch.device("meta"):
        net = bare_net(cfg.model).eval()
        for batch in (1, 2):
            assert net(torch.empty(batch, *shape_of(cfg))).shape == (batch, cfg.data.num_classes)
        output = net.train()(torch.empty(2, *shape_of(cfg)))
    for logits in (output[0], *output[1]) if isinstance(output, tuple) else (output,):
        assert logits.shape == (2, cfg.data.num_classes)
    assert {net.get_submodule(name).out_features for name in net.head_names} == {cfg.data.num_classes}
    assert count_macs(net.eval(), shape_of(cfg)) > count_parameters(net) / 100


@pytest.fixture(scope="module")
def smallest(compose):
    """A net at the smallest shape there is, with eight images of noise and eight different answers."""

    def make(model):
        torch.manual_seed(0)
        cfg = compose(f"model={model}", "data=mnist_5k")
        return bare_net(cfg.model), torch.randn(8, *shape_of(cfg)), torch.arange(8)

    return make


def loss_of(output, labels):
    """Cross-entropy over all heads; those of a net with auxiliary ones come as (main, others)."""
    main, aux = output if isinstance(output, tuple) else (output, ())
    return sum((nn.functional.cross_entropy(head, labels) for head in aux), nn.functional.cross_entropy(main, labels))


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_gets_a_finite_gradient_and_bf16_stays_finite(smallest, model):
    net, images, labels = smallest(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # forward only: not every CPU has bf16 arithmetic
        assert loss_of(net(images[:2]), labels[:2]).isfinite()
    loss_of(net(images[:4]), labels[:4]).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("model", MODELS)
def test_it_overfits_eight_images_to_zero_error(smallest, model):
    net, images, labels = smallest(model)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # it is there to prevent just this
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)
    for _ in range(200):
        optimizer.zero_grad()
        output = net(images)
        loss = loss_of(output, labels)
        logits = output[0] if isinstance(output, tuple) else output
        if logits.argmax(1).equal(labels) and loss < 0.5:
            return
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss is still {loss:.3f} after 200 steps")


@pytest.mark.parametrize("model", MODELS)
def test_torch_export_gives_an_equal_net(smallest, model):
    net, images, _ = smallest(model)
    net.eval()
    exported = torch.export.export(net, (images[:2],), strict=True).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images[:2]), net(images[:2]))
