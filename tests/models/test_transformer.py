import math

import pytest
import torch
from torch import nn

from zoo.models.attention import rotate
from zoo.models.transformer import Transformer, rotations, sinusoids

SIZES = {"width": 32, "encoder_depth": 2, "decoder_depth": 3, "num_heads": 4, "mlp_width": 48, "dropout": 0.0}
PAD = 0


def torchs(norm, activation):
    theirs = nn.Transformer(32, 4, 2, 3, 48, 0.0, activation, batch_first=True, norm_first=norm == "pre")
    theirs.encoder.use_nested_tensor = False  # a prototype that warns
    if norm == "post":  # the paper has no extra norm after the last layer; torch adds one
        theirs.encoder.norm = theirs.decoder.norm = None
    return theirs.eval()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_logits_are_those_of_torchs_transformer_with_the_same_weights(norm, activation):
    torch.manual_seed(0)
    ours = Transformer(11, 13, **SIZES, norm=norm, activation=activation, share="none").eval()
    theirs = torchs(norm, activation)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)  # including norms and biases
    weights = {name: w for name, w in theirs.state_dict().items() if w is not None}
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"source_embedding", "target_embedding", "head"}

    source, target = torch.randint(1, 11, (3, 7)), torch.randint(1, 13, (3, 5))
    source[1, 4:] = source[2, 6:] = PAD
    table = sinusoids(7, 32)
    read = ours.source_embedding(source) * math.sqrt(32) + table
    written = ours.target_embedding(target) * math.sqrt(32) + table[:5]
    hidden, later = source == PAD, nn.Transformer.generate_square_subsequent_mask(5) < 0
    with torch.no_grad():
        expected = theirs(read, written, tgt_mask=later, src_key_padding_mask=hidden, memory_key_padding_mask=hidden)
        torch.testing.assert_close(ours(source, target), ours.head(expected), atol=1e-5, rtol=0)


def test_places_are_told_by_the_sines_and_cosines_of_section_3_5():
    table = sinusoids(20, 8)
    for place in (0, 1, 19):
        for i in range(4):
            angle = place / 10_000 ** (2 * i / 8)
            assert float(table[place, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(table[place, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_the_base_model_has_the_parameters_of_table_3():
    """65 M with one vocabulary of about 37,000, shared by all three (section 5.1); norms come after in the paper."""
    with torch.device("meta"):
        net = Transformer(37_000, 37_000, share="all", norm="post")
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(65e6, rel=0.04)


def test_sharing_leaves_out_whole_tables():
    def count(share):
        return sum(p.numel() for p in Transformer(12, 12, **SIZES, share=share).parameters())

    assert count("none") - count("output") == 12 * 32 + 12  # the head and its bias
    assert count("output") - count("all") == 12 * 32


def test_learned_places_are_parameters_and_sinusoids_are_not():
    learned, fixed = (Transformer(9, 9, **SIZES, max_length=10, positions=p) for p in ("learned", "sinusoidal"))
    assert learned.state_dict().keys() - fixed.state_dict().keys() == {"positions"}
    assert learned.positions.shape == (11, 32)


def test_rotary_places_multiply_pairs_by_a_complex_number_of_their_angle():
    """Su et al., 2021, equation 12: with pairs as complex numbers, e^(imθ), θ of one head's width."""
    x = torch.randn(2, 3, 20, 8, generator=torch.Generator().manual_seed(0))
    found = rotate(x, rotations(20, 8))
    angles = torch.arange(20)[:, None] * torch.tensor([10_000 ** (-2 * i / 8) for i in range(4)])
    expected = torch.complex(*x.chunk(2, -1)) * torch.exp(1j * angles)
    torch.testing.assert_close(found, torch.cat([expected.real, expected.imag], -1), atol=1e-5, rtol=0)


def test_rotary_nets_see_where_a_token_is_relative_to_others_only():
    torch.manual_seed(0)
    net = Transformer(9, 9, **SIZES, positions="rotary").eval()
    word = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        memory, _ = net.encode(word)
        x = net.embed(word, net.source_embedding, start=40)[0]
        shifted = net.encoder(x, torch.ones(1, 1, 1, 4, dtype=torch.bool), net.positions[40:44])
        torch.testing.assert_close(shifted, memory, atol=1e-5, rtol=0)
        assert (net.encode(word.flip(1))[0].flip(1) - memory).abs().max() > 0.1  # but not the same in any order


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"share": "all"}, "share=all needs a common alphabet"),
        ({"num_heads": 5}, "must be even and a multiple of"),
        ({"num_heads": 32, "positions": "rotary"}, "needs heads of an even width, not of 32 / 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Transformer(11, 13, **{**SIZES, **change})
