import torch

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.airbench import AirBench


def test_it_is_of_the_papers_size_but_for_the_scales_of_norms():
    """Jordan (2024): 1.97 M parameters; 9.9 epochs of 50,000 images take 3.6e14 FLOPs; a MAC counts as two."""
    net = AirBench()
    scales = sum(len(m.weight) for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert round((count_parameters(net) - scales) / 1e6, 2) == 1.97
    training = 3 * 2 * count_macs(net, (3, 32, 32)) * 9.9 * 50_000
    assert 0.95 < training / 3.6e14 < 1  # theirs include testing


def test_a_new_convolution_passes_on_what_it_gets():
    images = torch.randn(2, 24, 8, 8)
    conv = AirBench().blocks[0][0]
    torch.testing.assert_close(conv(images)[:, :24], images)
