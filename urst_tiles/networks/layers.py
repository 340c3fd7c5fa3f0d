"""The layers that feed-forward style networks since Johnson et al., ECCV 2016, are made of."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Layer", "Residual"]


class Layer(nn.Module):
    """[upsample →] reflection pad → convolution [→ norm → ReLU]. ``eps``: of the norm; None for the last layer, which
    has neither."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        up: bool = False,
        eps: float | None = 1e-5,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest") if up else nn.Identity()
        self.pad = nn.ReflectionPad2d(kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride)
        self.norm = nn.Identity() if eps is None else nn.InstanceNorm2d(outputs, eps=eps, affine=True)
        self.relu = nn.ReLU() if relu and eps is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.norm(self.conv(self.pad(self.upsample(x)))))
        return y


class Residual(nn.Module):
    """(N, C, H, W) → the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Layer(channels, channels), Layer(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x)) + x
        return y
