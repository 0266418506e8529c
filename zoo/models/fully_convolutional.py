"""Convert a classifier into a fully convolutional net, which returns a map of class scores for larger images.

A linear layer over a C × s × s map is a convolution with an s × s kernel; those after it are 1 × 1 convolutions
(Sermanet et al., "OverFeat", 2013, section 3.3; Long et al., "Fully convolutional networks", 2014, section 3.1).
"""

import copy
import math

import torch
from torch import nn


def to_fully_convolutional(net: nn.Module, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """Return a net with the same weights, from (N, C, H, W) to (N, num_classes, h, w), for LeNet-5, AlexNet and VGG.

    At `image_shape` (C, H, W), for which the net was built, h = w = 1, and the scores are those of the net. On a larger
    image, each position is the output of the head for that window of the features. This equals cropping if the features
    have no padding, and nearly so otherwise, since a crop is padded with zeros where the map has image content. The
    given net is not changed. Raises ValueError if the net does not consist of `features`, a pooling and a `classifier`,
    if its images are not square, or if its pooling is uneven at this size.
    """
    features, classifier = getattr(net, "features", None), getattr(net, "classifier", None)
    if not isinstance(features, nn.Sequential) or not isinstance(classifier, nn.Sequential):
        raise ValueError(f"{type(net).__name__} has no linear head over a feature map, as LeNet5, AlexNet and VGG have")
    if image_shape[1] != image_shape[2]:
        raise ValueError(f"expected a net for square images, got one for {image_shape[1]} × {image_shape[2]} px")
    features = copy.deepcopy(features)
    with torch.no_grad():
        _, channels, side, _ = copy.deepcopy(features).to("meta")(torch.empty(1, *image_shape, device="meta")).shape
    layers: list[nn.Module] = [features]
    kernel = None
    for module in classifier:
        if isinstance(module, nn.Linear):
            if kernel is None:
                kernel = math.isqrt(module.in_features // channels)
                if side % kernel:
                    raise ValueError(
                        f"at {image_shape[1]} px, {side} × {side} features are pooled unevenly to {kernel} × {kernel}"
                    )
                layers.append(nn.AvgPool2d(side // kernel))
            else:
                kernel = 1
            conv = nn.Conv2d(module.in_features // kernel**2, module.out_features, kernel)
            conv.weight.data = module.weight.detach().clone().view_as(conv.weight)
            assert conv.bias is not None
            conv.bias.data = module.bias.detach().clone()
            layers.append(conv)
        elif not isinstance(module, nn.Flatten):
            layers.append(copy.deepcopy(module))
    return nn.Sequential(*(m for m in layers if not isinstance(m, nn.AvgPool2d) or m.kernel_size != 1)).train(
        net.training
    )
