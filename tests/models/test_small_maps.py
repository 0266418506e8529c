import pytest
import torch
from torch.nn import functional

from zoo.models.small_maps import SmallMapsAsProducts, is_faster


def drawn(shape_of_x, shape_of_weight, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(shape, generator=generator).bfloat16() for shape in (shape_of_x, shape_of_weight))
    return x.to(memory_format=torch.channels_last).requires_grad_(), (weight / 16).requires_grad_()


def results(x, weight, bias, size, gradient=None):
    """Return a convolution and the gradients of its input, weight and bias."""
    leaves = [one.detach().clone().requires_grad_() for one in (x, weight, bias)]
    y = functional.conv2d(*leaves, padding=size // 2)
    y.backward(torch.ones_like(y) if gradient is None else gradient.to(y))
    return [y, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(
    ("maps", "size", "channels"),
    [
        ((4, 4), 3, (256, 256)),
        ((1, 1), 3, (256, 257)),
        ((2, 5), 3, (256, 300)),
        ((7, 7), 1, (24, 40)),
        ((1, 9), 1, (3, 5)),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_convolution_as_a_product_has_the_values_and_gradients_of_one_in_float32(maps, size, channels, memory_format):
    num_in, num_out = channels
    x, weight = drawn((3, num_in, *maps), (num_out, num_in, size, size))
    x, bias = x.detach().to(memory_format=memory_format), torch.randn(num_out).bfloat16()
    gradient = torch.randn(3, num_out, *maps).bfloat16().to(memory_format=memory_format)
    expected = results(x.float(), weight.float(), bias.float(), size, gradient)
    assert is_faster(x, weight, bias, padding=size // 2)
    with SmallMapsAsProducts():
        found = results(x, weight, bias, size, gradient)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert one.shape == other.shape
        assert (one.float() - other).norm() < 0.006 * other.norm()  # bfloat16 has 8 bits
    assert found[0].grad_fn.next_functions[0][0].name() != "ConvolutionBackward0"


def test_autocast_is_followed_and_gradients_have_the_type_of_the_weights():
    x, weight = (one.detach().float() for one in drawn((2, 32, 7, 7), (8, 32, 1, 1)))
    weight.requires_grad_()
    with SmallMapsAsProducts(), torch.autocast("cpu", torch.bfloat16):
        y = functional.conv2d(x, weight)
    y.float().square().sum().backward()
    assert (y.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(y, functional.conv2d(x, weight), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("shape", "weights", "settings"),
    [
        ((2, 256, 4, 4), (256, 256, 3, 3), {"stride": 2, "padding": 1}),
        ((2, 256, 4, 4), (256, 256, 3, 3), {"stride": (1, 2), "padding": 1}),
        ((2, 256, 4, 4), (256, 256, 3, 3), {"padding": 0}),
        ((2, 256, 4, 4), (256, 256, 3, 3), {"padding": "same"}),
        ((2, 256, 4, 4), (256, 256, 3, 3), {"padding": 2, "dilation": 2}),
        ((2, 512, 4, 4), (256, 256, 3, 3), {"padding": 1, "groups": 2}),
        ((2, 256, 6, 6), (256, 256, 3, 3), {"padding": 1}),
        ((2, 64, 4, 4), (64, 64, 3, 3), {"padding": 1}),
        ((2, 64, 8, 8), (64, 64, 1, 1), {}),
        ((2, 256, 4, 4), (256, 256, 1, 3), {"padding": (0, 1)}),
        ((2, 256, 4, 4), (256, 256, 5, 5), {"padding": 2}),
        ((256, 4, 4), (256, 256, 3, 3), {"padding": 1}),
    ],
)
def test_all_other_convolutions_are_torchs(shape, weights, settings):
    x, weight = drawn((1, *shape) if len(shape) == 3 else shape, weights)
    x = x[0] if len(shape) == 3 else x
    order = ("stride", "padding", "dilation", "groups")
    values = [settings.get(name, default) for name, default in zip(order, (1, 0, 1, 1), strict=True)]
    assert not is_faster(x, weight, None, *values)
    with SmallMapsAsProducts():
        y = functional.conv2d(x, weight, None, *values)
    assert y.equal(functional.conv2d(x, weight, None, *values))


def test_without_gradients_or_in_float32_convolutions_are_torchs():
    x, weight = drawn((2, 256, 4, 4), (256, 256, 3, 3))
    assert is_faster(x, weight, padding=1)
    assert not is_faster(x.float(), weight.float(), padding=1)
    assert not is_faster(x, weight.detach(), padding=1)
    assert not is_faster(x.to("meta"), weight, padding=1)
    with torch.no_grad():
        assert not is_faster(x, weight, padding=1)
