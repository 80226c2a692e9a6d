"""A small convolutional network for digits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tlkit.errors import BackboneError

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Convolutions, each followed by max-pooling over 2x2 and ReLU, then flattened: LeNet's shape, for small images.

    The default maps 16x16 digits to 512 features with two 5x5 convolutions of 16 and 32 channels.
    ``ConvNet(image_size=28, channels=(20, 50), padding=0, hidden=500)`` is the LeNet of the domain-adaptation
    literature on digits. The original is LeCun et al., Proceedings of the IEEE 1998.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels.
        channels: Output channels of each convolution; there is one convolution for each number.
        kernel_size: Height and width of the kernels.
        padding: Zeros around each convolution's input; the default keeps the size of 5x5 convolutions.
        batch_norm: Normalise after each convolution.
        hidden: Width of a fully connected layer with ReLU after the flattening; None for no such layer.

    Attributes:
        num_features: Width of the output.

    Raises:
        BackboneError: If the images are too small for the layers, or in the forward pass if they have another shape.

    Shape:
        ``(B, in_channels, image_size, image_size)``, floating point -> ``(B, num_features)``.

    Example:
        >>> import torch
        >>> backbone = ConvNet()
        >>> backbone.num_features
        512
        >>> backbone(torch.rand(4, 1, 16, 16)).shape
        torch.Size([4, 512])
    """

    num_features: int

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 16,
        channels: Sequence[int] = (16, 32),
        kernel_size: int = 5,
        padding: int = 2,
        batch_norm: bool = False,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if not channels:
            raise BackboneError("ConvNet(channels=...) needs at least one number, one for each convolution, got none")
        self.in_channels, self.image_size = in_channels, image_size
        layers: list[nn.Module] = []
        size, width = image_size, in_channels
        for out in channels:
            size = (size + 2 * padding - kernel_size + 1) // 2
            if size < 1:
                raise BackboneError(
                    f"ConvNet(image_size={image_size}) leaves no pixel after {len(channels)} layers of {kernel_size}x"
                    f"{kernel_size} convolution with padding {padding} and 2x2 pooling: give larger images, fewer "
                    "channels, a smaller kernel_size or more padding"
                )
            layers.append(nn.Conv2d(width, out, kernel_size, padding=padding))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out))
            # max(relu(x)) = relu(max(x)): pooling first is the same function and leaves ReLU a quarter of the work.
            layers += [nn.MaxPool2d(2), nn.ReLU()]
            width = out
        layers.append(nn.Flatten())
        self.num_features = width * size * size
        if hidden is not None:
            layers += [nn.Linear(self.num_features, hidden), nn.ReLU()]
            self.num_features = hidden
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of images."""
        expected = (self.in_channels, self.image_size, self.image_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != expected or not x.is_floating_point():
            raise BackboneError(
                f"ConvNet(in_channels={self.in_channels}, image_size={self.image_size}) takes floating-point images of "
                f"shape (B, {', '.join(map(str, expected))}), got {x.dtype} of shape {tuple(x.shape)}: set in_channels "
                "and image_size to those of the data"
            )
        features: Tensor = self.layers(x)
        return features
