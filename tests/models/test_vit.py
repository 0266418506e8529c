import pytest
import torch
import torchvision

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.vit import ViT


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
