import pytest
import torch
from torch.nn import functional as F

from zoo.models.attention import Attention


@pytest.mark.parametrize("mask", ["none", "causal", "padding"])
def test_values_and_gradients_in_bfloat16_are_those_of_torchs_attention_in_float32(mask):
    torch.manual_seed(0)
    attention = Attention(64, 4)
    torch.nn.init.eye_(attention.out_proj.weight)
    torch.nn.init.zeros_(attention.out_proj.bias)
    q, k, v = (torch.randn(2, 4, 9, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    lengths = torch.tensor([9, 5])[:, None, None, None]
    allowed = torch.arange(9).expand(2, 1, 1, 9) < lengths if mask == "padding" else None

    heads = attention.bfloat16().attend(q, k, v, allowed, causal=mask == "causal")
    torchs = F.scaled_dot_product_attention(*exact, allowed, is_causal=mask == "causal")
    torch.testing.assert_close(heads.float(), torchs.transpose(1, 2).flatten(2), atol=0.02, rtol=0)
    slopes = torch.randn_like(torchs)
    heads.backward(slopes.transpose(1, 2).flatten(2).bfloat16())
    torchs.backward(slopes)
    for ours, theirs in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(ours.grad.float(), theirs.grad, atol=0.05, rtol=0)


def test_a_row_that_attends_to_nothing_is_finite():
    q, k, v = (torch.randn(1, 2, 3, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.tensor([True, False, True])[:, None].expand(3, 3)
    Attention(8, 2).bfloat16().attend(q, k, v, mask).float().square().sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
