"""Weights for places of an image in a net for another size: torchvision's interpolation, timm's net, or a refusal."""

import pytest
import torch
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from zoo.checkpoint.positions import POSITIONS, fitted, interpolated
from zoo.checkpoint.pretrained import load_published
from zoo.errors import BadInput
from zoo.models.lenet import LeNet5, LeNet300
from zoo.models.vit import ViT


def theirs(embedding, side) -> torch.Tensor:
    """What torchvision makes of embeddings for images of `side` px, with patches of one px."""
    return interpolate_embeddings(side, 1, {POSITIONS: embedding.clone()})[POSITIONS]


def test_position_embeddings_are_torchvisions_for_squares_and_line_by_line_for_others():
    embedding = torch.randn(1, 1 + 7 * 7, 3)
    for side in (5, 7, 12):
        found = interpolated(embedding, (7, 7), (side, side))
        torch.testing.assert_close(found, theirs(embedding, side) if side != 7 else embedding)
    lines = torch.randn(7, 3)
    for before, dim, after in ((lines[:, None].expand(7, 7, 3), 0, (5, 12)), (lines.expand(7, 7, 3), 1, (12, 5))):
        whole = torch.cat([torch.zeros(1, 1, 3), before.reshape(1, 49, 3)], 1)
        found = interpolated(whole, (7, 7), after)[:, 1:].view(*after, 3)
        expected = theirs(whole, 5)[:, 1:].view(5, 5, 3)
        expected = expected[:, :1].expand(5, 12, 3) if dim == 0 else expected[:1].expand(12, 5, 3)
        torch.testing.assert_close(found, expected)


def test_published_weights_of_a_square_start_a_net_for_other_shapes(tmp_path, caplog):
    other = VisionTransformer(64, 16, 1, 2, 32, 128, num_classes=3)
    other.encoder.pos_embedding.data.normal_()
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    net = ViT(32, 1, 2, image_size=(96, 160), num_classes=3, stem="large")
    settings = {"image_size": [96, 160], "stem": "large"}
    with caplog.at_level("INFO"):
        assert load_published(net, "vit_tiny", str(tmp_path / "weights.pth"), settings)[1] == []
    assert "for 4 × 4 patches, are interpolated to 6 × 10" in caplog.text
    expected = interpolated(other.encoder.pos_embedding.data, (4, 4), (6, 10))
    assert torch.equal(net.encoder.pos_embedding.data, expected)
    assert torch.equal(net.conv_proj.weight.data, other.conv_proj.weight.data)


def test_timms_net_for_a_shape_has_the_logits_of_ours():
    timm = pytest.importorskip("timm")
    from zoo.checkpoint.timm_weights import to_timm

    net = ViT(192, 1, 3, image_size=(96, 160), num_classes=5).eval()
    other = timm.create_model("vit_tiny_patch16_224", img_size=(96, 160), depth=1, num_classes=5).eval()
    other.load_state_dict(to_timm(net.state_dict()))
    images = torch.randn(2, 3, 96, 160)
    torch.testing.assert_close(net(images), other(images), atol=1e-5, rtol=1e-4)


def test_weights_for_another_map_of_as_many_places_are_refused():
    tall, wide = LeNet5(image_size=(64, 32)), LeNet5(image_size=(32, 64))
    wide.load_state_dict(tall.state_dict())  # torch accepts them
    with pytest.raises(BadInput, match=r"^FILE: its LeNet5 has .* 13 × 5, .* 5 × 13; use the same data\.image_size$"):
        fitted(wide, tall.state_dict(), tall.map_size, "FILE")
    with pytest.raises(BadInput, match="LeNet300"):
        fitted(LeNet300(image_size=(24, 25)), LeNet300(image_size=(20, 30)).state_dict(), (20, 30), "FILE")
    assert fitted(LeNet5(image_size=32), LeNet5(image_size=28).state_dict(), LeNet5(image_size=28).map_size, "FILE")
    turned = ViT(16, 1, 2, 16, image_size=(96, 160)), ViT(16, 1, 2, 16, image_size=(160, 96))
    found = fitted(turned[0], turned[1].state_dict(), turned[1].map_size, "FILE")[POSITIONS]
    assert torch.equal(found, interpolated(turned[1].encoder.pos_embedding, (10, 6), (6, 10)))
