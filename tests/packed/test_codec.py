"""Tensors are restored exactly, in fewer bytes than the entropy of independent weights, and equally everywhere."""

import contextlib
import hashlib

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from zoo.packed.codec import MOST_BY_CODE, decode, encode
from zoo.packed.context_model import MAX_BITS, MIN_PROBABILITY, TRIVIAL
from zoo.packed.range_coder import ONE

SHAPES = [
    (),
    (1,),
    (7,),
    (3, 1),
    (1, 5),
    (1, 33, 20),
    (40, 30),
    (30, 40),
    (16, 8, 3, 3),
    (20, 1, 5, 5),
    (2, 900),
    (0,),
    (3, 0),
]

LARGE_GOLDEN = "6644d4d8cd23b9f2b1cf1f5b08c934ed4158cb2d5a75251ae0cbdca04e739c31"
GOLDEN = (
    "1bfe7ae62b023da5f2b1484ab842967f82bc872c392b43686e1d74da0fcd4b0f0f87d46917851f03b40926d0"
    "940146d89dc35d24b04ae4b31310aa819ebcbf9469cb784c815862c0cb9004758f4627d1230ff0827d148b51"
    "708b5f59754446fc"
)


def round_trip(*tensors):
    code, bits = encode(tensors)
    back = list(decode(code, [tuple(tensor.shape) for tensor in tensors]))
    return back, code, bits


def same(one, other):
    """Return whether two tensors are bitwise equal."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.numpy().tobytes() == other.numpy().tobytes()


def pruned(shape, density, num_values, seed=0):
    """Draw weights with a share of survivors and values from a codebook, or all different if num_values is 0."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape, generator=draw)
    if num_values:
        book = torch.randn(num_values, generator=draw)
        weights = book[torch.randint(num_values, shape, generator=draw)]
    return torch.where(torch.rand(shape, generator=draw) < density, weights, 0.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_values", [0, 1, 2, 15, 256])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.97, 1.0])
def test_weights_come_back_to_the_last_bit(shape, density, num_values):
    weights = pruned(shape, density, num_values)
    after = torch.arange(5.0)  # and the tensor after it
    (back, end), _, (bits, _) = round_trip(weights, after)
    assert same(back, weights)
    assert same(end, after)
    assert (bits.num_weights, bits.num_survivors) == (weights.numel(), int(weights.count_nonzero()))


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-45, -1e-40, 3.4e38, 65504.0, 65536.0]),
        torch.tensor([0.5, -0.5]).repeat(300),
        torch.randn(4, 6, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(30, 20).T,
        torch.randn(500).half().float(),
        torch.ones(TRIVIAL + 1),
        torch.full((100,), -3.0),
        torch.zeros(2**17),
    ],
    ids=["odd", "two", "channels_last", "transposed", "half", "ones", "constant", "zeros"],
)
def test_odd_floats_come_back_to_the_last_bit(values):
    assert same(round_trip(values)[0][0], values.contiguous())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_whole_numbers_come_back_in_their_type(dtype):
    least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    tensors = [
        torch.tensor(4300 % (most + 1)).to(dtype),
        torch.tensor([[least, 0, most]]).to(dtype),
        torch.zeros(0, dtype=dtype),
    ]
    assert all(same(one, other) for one, other in zip(round_trip(*tensors)[0], tensors, strict=True))


def test_minus_zero_is_a_zero_since_masks_leave_it_of_negative_weights():
    weights = torch.randn(100, 100) * (torch.rand(100, 100) < 0.1)
    (back,), _, (bits,) = round_trip(weights)
    assert torch.equal(back, weights)
    assert bits.num_survivors == int(weights.count_nonzero())
    assert not torch.signbit(back[back == 0]).any()


def test_tensors_are_left_as_they_were():
    weights = torch.tensor([[-0.0, 1.0]])
    encode([weights])
    assert torch.signbit(weights[0, 0])


def test_half_and_double_come_back_as_float32():
    back = round_trip(torch.tensor([1.5, 2.5], dtype=torch.float64), torch.tensor([1.5, 2.5], dtype=torch.bfloat16))[0]
    assert [tensor.dtype for tensor in back] == [torch.float32] * 2
    assert all(tensor.tolist() == [1.5, 2.5] for tensor in back)


def test_a_type_that_is_not_coded_is_refused():
    with pytest.raises(ValueError, match="complex64"):
        encode([torch.zeros(2, dtype=torch.complex64)])


@pytest.mark.parametrize(
    ("shape", "density", "num_values"),
    [((1000, 950), 0.05, 15), ((128, 512, 3, 3), 0.1, 32), ((400, 600), 0.5, 4)],
    ids=str,
)
def test_independent_weights_take_a_hundredth_more_than_their_entropy(shape, density, num_values):
    weights = pruned(shape, density, num_values)
    code, (bits,) = encode([weights])
    assert len(code) > 50_000
    values, counts = np.unique(weights.numpy(), return_counts=True)
    floor = weights.numel() * scipy.stats.entropy(counts, base=2)  # of zero or value: H(p) + p·H(values)
    assert len(values) == num_values + 1
    assert bits.floor == pytest.approx(floor)
    assert 8 * len(code) == pytest.approx(bits.mask + bits.codebook + bits.values, abs=64)
    assert 0.999 * floor < 8 * len(code) < 1.01 * floor


def test_dead_inputs_and_outputs_take_it_near_the_entropy_of_the_live():
    weights = pruned((300, 784), 0.1, 15)
    dead_outputs, dead_inputs = torch.randperm(300)[:100], torch.randperm(784)[:300]
    weights[dead_outputs] = 0
    weights[:, dead_inputs] = 0
    code, (bits,) = encode([weights])
    _, counts = np.unique(weights.numpy(), return_counts=True)
    live = 200 * 484
    counts[counts.argmax()] -= weights.numel() - live
    entropy_of_live = live * scipy.stats.entropy(counts, base=2)
    assert entropy_of_live < 8 * len(code) < 1.06 * entropy_of_live < bits.floor


def test_weights_that_resemble_the_next_px_and_the_next_line_take_it_far_below():
    draw = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(draw.standard_normal((200, 28, 28)), (0, 2, 2))
    cut = np.quantile(np.abs(smooth), 0.9)
    weights = torch.tensor(np.where(np.abs(smooth) > cut, np.sign(smooth), 0)).float().reshape(200, 784)
    code, (bits,) = encode([weights])
    assert 8 * len(code) < 0.6 * bits.floor


def test_survivors_that_share_nothing_take_little_more_than_their_bits():
    weights = pruned((200, 500), 0.2, 0)
    _, (bits,) = encode([weights])
    assert bits.codebook == 0
    assert 0.8 * 32 * bits.num_survivors < bits.values < 32 * bits.num_survivors


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.float16, 16), (torch.bfloat16, 16), (torch.float8_e5m2, 8)], ids=str
)
def test_numbers_of_narrower_floats_take_no_more_than_their_own_bits(dtype, width):
    weights = torch.randn(100_000).to(dtype).float()
    _, (bits,) = encode([weights])
    assert bits.mask + bits.codebook + bits.values < 0.95 * width * len(weights)


def test_a_weight_in_the_least_of_bits_is_what_the_bound_of_sizes_counts_on():
    least = min(-np.log2(1 - MIN_PROBABILITY / ONE), -np.log2(1 - 2.0**-MAX_BITS))
    assert 8 / least < MOST_BY_CODE
    for weights in (torch.zeros(2**20), torch.ones(2**20), torch.tensor([1.0, 2.0]).repeat_interleave(2**19)):
        code, _ = encode([weights])
        assert weights.numel() < MOST_BY_CODE * len(code)


def test_the_code_is_the_same_on_every_machine_and_for_ever():
    """Files of version 1 must stay readable; if this fails, the version must be increased."""
    steps = torch.arange(12 * 40)
    weights = torch.where(steps * 7919 % 101 < 20, (steps * 31 % 9 - 4) / 8, 0.0).reshape(12, 40)
    tensors = [weights, steps[:5] * 0.3, torch.tensor(4300)]
    code, _ = encode(tensors)
    assert code.hex() == GOLDEN
    assert all(same(a, b) for a, b in zip(decode(code, [(12, 40), (5,), ()]), tensors, strict=True))


def test_the_code_of_a_large_tensor_is_the_same_too():
    """Its row parts are wide; rows of only survivors and rows of only zeros reach the extreme probabilities."""
    steps = torch.arange(2048 * 600)
    left = (steps * 7919 % 101 < 20) & (steps // 600 * 31 % 17 > 3) | (steps % 600 < 40)
    weights = torch.where(left & (steps % 600 < 560), (steps * 31 % 9 - 4) / 8, 0.0).reshape(2048, 600)
    code, _ = encode([weights])
    assert hashlib.sha256(code).hexdigest() == LARGE_GOLDEN
    (read,) = decode(code, [(2048, 600)])
    assert same(read, weights)


def test_noise_is_read_to_an_end_or_refused():
    draw = np.random.default_rng(0)
    shapes = [(30, 20), (7,), (3, 3, 3, 3)]
    for _ in range(50):
        with contextlib.suppress(AssertionError, IndexError, ValueError):
            assert [tuple(tensor.shape) for tensor in decode(draw.bytes(200), shapes)] == shapes
