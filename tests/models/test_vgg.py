import pytest
import torch
import torchvision

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.vgg import VGG

PUBLISHED = {  # torchvision 0.29: parameters, GMACs
    (11, False): (132_863_336, 7.609),
    (11, True): (132_868_840, 7.609),
    (13, False): (133_047_848, 11.308),
    (13, True): (133_053_736, 11.308),
    (16, False): (138_357_544, 15.470),
    (16, True): (138_365_992, 15.470),
    (19, False): (143_667_240, 19.632),
    (19, True): (143_678_248, 19.632),
}


@pytest.mark.parametrize(("depth", "batch_norm"), PUBLISHED)
def test_it_is_torchvisions_net_weight_for_weight(depth, batch_norm):
    params, gmacs = PUBLISHED[depth, batch_norm]
    with torch.device("meta"):  # their weights are set below: drawing 2 × 140 million normals would be slow
        ours = VGG(depth, batch_norm)
        theirs = getattr(torchvision.models, f"vgg{depth}{'_bn' if batch_norm else ''}")(init_weights=False)
    assert count_parameters(ours) == params
    assert round(count_macs(ours, (3, 224, 224)) / 1e9, 3) == gmacs

    ours, theirs = ours.to_empty(device="cpu").eval(), theirs.to_empty(device="cpu").eval()
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            bound = 0.02 if tensor.ndim > 1 else 0.1
            tensor.uniform_(-bound, bound) if tensor.ndim > 1 else tensor.uniform_(0.5, 1.5)
        else:
            tensor.zero_()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-6)


def test_initial_activations_keep_their_size_through_nineteen_layers():
    """He initialisation is made for this (2015, section 2.2): second moments are preserved."""
    torch.manual_seed(0)
    net = VGG(19, image_size=32, num_classes=10)
    moments = []
    for layer in net.features:
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda m, i, o: moments.append(float(o.square().mean().detach())))
    net.features(torch.randn(2, 3, 64, 64))
    assert 0.05 < moments[-1] / moments[0] < 20
