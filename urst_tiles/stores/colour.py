"""What formats for screens ask of pixels: 8 bit, and profiles that libvips can use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

__all__ = ["as_8_bit", "image_of", "is_usable", "with_profile"]


def as_8_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bit to the nearest of 256 values: 0 stays 0, 65535 becomes 255."""
    if pixels.dtype == np.uint8:
        return pixels
    rounded: NDArray[np.uint8] = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return rounded


def image_of(pixels: NDArray[np.uint8]) -> Any:
    """A libvips image of (height, width, bands), which it copies nothing of: keep the array as long."""
    height, width, bands = pixels.shape
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels).data, width, height, bands, "uchar")
    return image.copy(interpretation="srgb")


def with_profile(image: Any, profile: bytes) -> Any:
    changed = image.copy()
    changed.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return changed


def is_usable(profile: bytes) -> bool:
    """Whether libvips would keep this profile with an RGB picture: it leaves out what is damaged or not of RGB."""
    dot = with_profile(image_of(np.zeros((1, 1, 3), np.uint8)), profile)
    kept = pyvips.Image.new_from_buffer(dot.pngsave_buffer(keep="icc"), "")
    return "icc-profile-data" in kept.get_fields()
