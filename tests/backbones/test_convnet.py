from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tlkit.backbones import ConvNet
from tlkit.errors import BackboneError


def test_equals_convolution_relu_pool_written_out():
    backbone, x = ConvNet(), torch.randn(4, 1, 16, 16)
    w1, b1, w2, b2 = backbone.parameters()
    hidden = F.max_pool2d(F.conv2d(x, w1, b1, padding=2).relu(), 2)
    expected = F.max_pool2d(F.conv2d(hidden, w2, b2, padding=2).relu(), 2).flatten(1)
    torch.testing.assert_close(backbone(x), expected)
    assert (w1.shape, w2.shape) == ((16, 1, 5, 5), (32, 16, 5, 5))


def test_lenet_of_the_digit_benchmarks():
    backbone = ConvNet(image_size=28, channels=(20, 50), padding=0, hidden=500)
    shapes = [tuple(p.shape) for p in backbone.parameters() if p.dim() > 1]
    assert shapes == [(20, 1, 5, 5), (50, 20, 5, 5), (500, 50 * 4 * 4)]
    assert backbone(torch.rand(2, 1, 28, 28)).shape == (2, backbone.num_features) == (2, 500)


def test_batch_norm_is_an_option():
    kinds = {type(module).__name__ for module in ConvNet(batch_norm=True).modules()}
    assert "BatchNorm2d" in kinds
    assert "BatchNorm2d" not in {type(module).__name__ for module in ConvNet().modules()}


@pytest.mark.parametrize("size", [(1, 3, 16, 16), (1, 1, 28, 28), (1, 16, 16)])
def test_images_of_another_shape(size):
    with pytest.raises(BackboneError, match=r"takes floating-point images of shape \(B, 1, 16, 16\), got .*set in_ch"):
        ConvNet()(torch.rand(size))


def test_images_of_another_type():
    with pytest.raises(BackboneError, match=r"got torch\.uint8"):
        ConvNet()(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))


def test_images_too_small_for_the_layers():
    with pytest.raises(BackboneError, match="leaves no pixel after 2 layers"):
        ConvNet(image_size=10, padding=0)
    with pytest.raises(BackboneError, match="at least one number"):
        ConvNet(channels=())
