import pytest
import torch
import torchvision

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.alexnet import AlexNet


def test_one_tower_is_torchvisions_net_weight_for_weight():
    ours, theirs = AlexNet(), torchvision.models.alexnet()
    assert count_parameters(ours) == 61_100_840
    assert round(count_macs(ours, (3, 224, 224)) / 1e9, 3) == 0.714
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), atol=1e-4, rtol=0)


def test_two_towers_have_the_papers_sixty_million_parameters():
    net = AlexNet(year=2012)
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    # Section 3.5: kernels of 11×11×3, 5×5×48, 3×3×256, 3×3×192, 3×3×192; then 4096, 4096, 1000 units.
    kernels = [96 * 363, 256 * 1200, 384 * 2304, 384 * 1728, 256 * 1728, 4096 * 9216, 4096 * 4096, 1000 * 4096]
    assert [layer.weight.numel() for layer in layers] == kernels
    assert count_parameters(net) == 60_965_224


def test_response_normalisation_is_section_3_3s_formula():
    (norm, _) = (m for m in AlexNet(year=2012).modules() if isinstance(m, torch.nn.LocalResponseNorm))
    a = torch.rand(1, 8, 2, 2) * 10
    for i in range(8):
        neighbours = a[:, max(0, i - 2) : min(8, i + 3)]
        expected = a[:, i] / (2 + 1e-4 * (neighbours**2).sum(1)) ** 0.75
        torch.testing.assert_close(norm(a)[:, i], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_response_normalisation_of_halves_is_torchs_in_fp32_also_where_squares_do_not_fit(dtype):
    (norm, _) = (m for m in AlexNet(year=2012).modules() if isinstance(m, torch.nn.LocalResponseNorm))
    a = (torch.rand(2, 8, 3, 3) * 1000).to(dtype)
    found, expected = norm(a), torch.nn.functional.local_response_norm(a.float(), 5, 5e-4, 0.75, 2.0)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_towers_train_in_mixed_precision_on_a_cpu(dtype):
    net = AlexNet(1, 10, 28, year=2012)
    with torch.autocast("cpu", dtype):
        loss = net(torch.randn(2, 1, 28, 28)).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_towers_do_not_see_each_other_in_grouped_layers():
    conv = AlexNet(year=2012).features[4]
    assert conv.groups == 2
    x = torch.randn(1, 96, 5, 5)
    changed = x.clone()
    changed[:, 48:] += 1
    same = conv(x)[:, :128].equal(conv(changed)[:, :128])
    assert same
    assert not conv(x)[:, 128:].equal(conv(changed)[:, 128:])


@pytest.mark.parametrize("year", [2012, 2014])
def test_initial_biases_are_as_section_5_says(year):
    biases = [
        float(m.bias.detach().mean()) for m in AlexNet(year=year).modules() if getattr(m, "bias", None) is not None
    ]
    if year == 2012:
        assert biases == [0, 1, 0, 1, 1, 1, 1, 0]
    else:
        assert all(abs(b) < 0.1 for b in biases)
