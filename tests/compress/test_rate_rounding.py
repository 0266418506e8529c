import math

import pytest
import torch
from torch import nn

from zoo.compress.rate import RateModel
from zoo.compress.rate_rounding import Rounding, columns, curvatures, highest_price, update_norms
from zoo.models.resnet import ResNet
from zoo.models.transformer import Transformer


def net_and_inputs():
    """A net whose inputs are correlated, as pixels and activations are."""
    torch.manual_seed(0)
    x = 0.3 * torch.randn(1000, 48) @ torch.randn(48, 48)
    net = nn.Sequential(nn.Linear(48, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    for weight in net.parameters():
        weight.data *= 3
    return net, x


def bits_of(weights):
    """Return the bits of weights that are integers times a step, per weight."""
    integers = [(w / w[w != 0].abs().min()).round() if w.any() else w for w in weights.values()]
    return sum(float(RateModel.of(one).bits(one).sum()) for one in integers) / sum(w.numel() for w in weights.values())


@pytest.mark.parametrize("price", [0.003, 0.03, 0.3])
def test_for_as_many_bits_it_changes_the_predictions_far_less_than_plain_rounding(price):
    net, x = net_and_inputs()
    weights = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    expected = net(x).log_softmax(1).detach()

    def change(new):
        net.load_state_dict(new)
        return float(nn.functional.kl_div(net(x).log_softmax(1), expected, log_target=True, reduction="batchmean"))

    rounded = Rounding(weights, *curvatures(net, weights, [(x,)])).at(price)
    bits, found = bits_of(rounded), change(rounded)
    for scale in torch.linspace(0.05, 3, 100).tolist():
        plain = {name: (w / (scale * w.std())).round() * (scale * w.std()) for name, w in weights.items()}
        if bits_of(plain) <= bits:
            break
    assert found < 0.5 * change(plain)


def test_the_curvature_is_that_of_inputs_and_of_gradients_of_drawn_labels():
    net, x = net_and_inputs()
    layers, rows = curvatures(net, ["0.weight"], [(x[:500],), (x[500:],)])
    assert rows == {}
    corrections = layers["0.weight"].corrections[0].double()
    inverse = corrections.mT @ corrections
    inputs = (x.T @ x).double() / len(x)
    damped = inputs + 0.01 * inputs.diagonal().mean() * torch.eye(48)
    torch.testing.assert_close(inverse @ damped, torch.eye(48).double(), rtol=0, atol=1e-3)
    # Expected squared gradients in closed form: of the cross-entropy with labels drawn from the predictions.
    hidden = x @ net[0].weight.T
    shares, last = net(x).softmax(1), net[2].weight
    through = last[None] * (hidden > 0)[:, None]  # (samples, classes, hidden)
    mean = (shares[:, :, None] * through).sum(1)
    expected = ((shares[:, :, None] * through.square()).sum(1) - mean.square()).mean(0)
    ratio = layers["0.weight"].outputs / expected.detach()
    assert float(ratio.median()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_thecolumns_of_a_convolution_times_its_weights_are_its_output(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 12, 3, stride=2, padding=1, dilation=2, groups=groups, bias=False)
    x = torch.randn(4, 6, 13, 11)
    expected = conv(x)
    found = conv.weight.view(groups, 12 // groups, -1) @ columns(conv, x)
    found = found.view(12, 4, -1).transpose(0, 1).reshape(expected.shape)
    torch.testing.assert_close(found, expected)


def test_the_higher_the_price_the_fewer_bits_and_a_free_bit_changes_hardly_anything():
    torch.manual_seed(0)
    net = ResNet("basic", [1, 1], [4, 8], 1, 10, 28)
    names = [name for name, weight in net.named_parameters() if weight.ndim > 1]
    weights = {name: net.get_parameter(name).detach().clone() for name in names}
    rounding = Rounding(weights, *curvatures(net, names, [(torch.randn(64, 1, 28, 28),)]))
    found = [rounding.at(price) for price in (1e-8, 1e-3, 0.1, 10.0)]
    bits = [bits_of(one) for one in found]
    assert bits == sorted(bits, reverse=True)
    for name, weight in weights.items():
        assert (found[0][name] - weight).norm() < 0.03 * weight.norm()


def test_embeddings_and_shared_weights_have_a_curvature_too():
    torch.manual_seed(0)
    net = Transformer(9, 8, width=16, encoder_depth=1, decoder_depth=1, num_heads=2, mlp_width=32)
    names = [name for name, weight in net.named_parameters() if weight.ndim > 1]
    source, target = torch.randint(3, 8, (6, 5)), torch.randint(3, 8, (6, 4))
    target[3:, 2:] = 0
    layers, rows = curvatures(net, names, [(source, target)])
    assert layers.keys() | rows.keys() == set(names)
    assert all(bool((square > 0).any()) for square in rows.values())
    rounded = Rounding({n: net.get_parameter(n).detach() for n in names}, layers, rows).at(0.01)
    assert all(weight.isfinite().all() for weight in rounded.values())


def test_norms_are_measured_again_as_the_mean_over_batches():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(3)).eval()
    batches = [(torch.randn(10, 3) * 2 + 5,) for _ in range(4)]
    update_norms(net, batches)
    expected = torch.stack([x.var(0) for (x,) in batches]).mean(0)
    torch.testing.assert_close(net[0].running_var, expected)
    torch.testing.assert_close(net[0].running_mean, torch.cat([x for (x,) in batches]).mean(0))
    assert (net[0].momentum, net.training, net[0].training) == (0.1, False, False)


def test_the_highest_price_that_is_good_is_found():
    assert highest_price(lambda price: price < 0.37, 1.0) == pytest.approx(0.37, rel=0.03)
    assert highest_price(lambda price: price < 3.7e-9, 1e-8) == pytest.approx(3.7e-9, rel=0.03)
    assert highest_price(lambda price: False, 1.0) is None
    assert math.isfinite(highest_price(lambda price: True, 1.0))


@pytest.mark.parametrize("certainty", [1.0, 30.0])
def test_the_unit_of_prices_makes_steps_of_a_standard_deviation_also_for_a_net_that_is_certain(certainty):
    """A net that is certain has next to no curvature; its prices were once all too high, and its files inaccurate."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 10))
    with torch.no_grad():
        net[2].weight.mul_(certainty)
    names = ["0.weight", "2.weight"]
    weights = {name: net.get_parameter(name).detach() for name in names}
    rounding = Rounding(weights, *curvatures(net, names, [(torch.randn(128, 40),)]))
    logs = []
    for name, rounded in rounding.at(rounding.unit).items():
        step = rounded[rounded != 0].abs().min()
        logs.append(weights[name].numel() * math.log(step / weights[name].std()))
    assert abs(sum(logs)) / rounding.num_weights < 0.02  # steps have 8 bits
    close = rounding.at(rounding.unit * 2**-16)
    assert all((close[name] - weights[name]).abs().max() < weights[name].std() / 20 for name in names)
