import pytest
import torch
import torchvision

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.vit import ViT

BLOCK = "encoder.layers.encoder_layer_0"


@pytest.mark.parametrize(
    ("name", "patch", "params", "gmacs"), [("vit_b_16", 16, 86_567_656, 17.564), ("vit_b_32", 32, 88_224_232, 4.409)]
)
def test_it_is_torchvisions_net_weight_for_weight(name, patch, params, gmacs):
    ours, theirs = ViT(768, 12, 12, patch), getattr(torchvision.models, name)()
    assert count_parameters(ours) == params
    assert round(count_macs(ours, (3, 224, 224)) / 1e9, 3) == gmacs
    theirs.heads.head.weight.data.normal_(std=0.02)  # it starts at zero, a trivial comparison
    theirs.class_token.data.normal_()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("width", "heads", "params"), [(192, 3, 5_717_416), (384, 6, 22_050_664)])
def test_tiny_and_small_have_the_parameters_of_deit(width, heads, params):
    assert count_parameters(ViT(width, 12, heads)) == params  # timm's deit_tiny and deit_small, patch 16, 224 px


def test_small_images_are_cut_into_patches_of_4_px():
    assert ViT(192, 12, 3, image_size=28).encoder.pos_embedding.shape[1] == 7 * 7 + 1
    assert ViT(192, 12, 3, patch_size=7, image_size=28).encoder.pos_embedding.shape[1] == 4 * 4 + 1  # as requested


def test_patches_that_do_not_tile_the_image_are_refused():
    with pytest.raises(ValueError, match="multiple of patch_size=16"):
        ViT(192, 12, 3, image_size=230)


@pytest.mark.parametrize(("size", "channels", "std"), [(28, 1, 0.08), (32, 3, 0.02 * 48**0.5), (224, 3, 0.02)])
def test_positions_of_small_patches_start_as_large_as_the_embedded_patches(size, channels, std):
    torch.manual_seed(0)
    net = ViT(192, 1, 3, in_channels=channels, image_size=size)
    positions = net.encoder.pos_embedding.detach()
    assert float(positions.std()) == pytest.approx(0.88 * std, rel=0.03)  # 0.88: of a normal truncated at two std
    if size < 64:
        patches = net.conv_proj(torch.randn(64, channels, size, size)).detach()
        assert float(positions.std()) == pytest.approx(float(patches.std()), rel=0.05)


def test_matrices_start_as_those_of_torchvision():
    torch.manual_seed(0)
    ours, theirs = ViT(192, 1, 3), torchvision.models.VisionTransformer(224, 16, 1, 3, 192, 768)
    for name in ("self_attention.in_proj_weight", "mlp.0.weight"):
        ours_std, theirs_std = (float(net.get_parameter(f"{BLOCK}.{name}").detach().std()) for net in (ours, theirs))
        assert ours_std == pytest.approx(theirs_std, rel=0.02)
