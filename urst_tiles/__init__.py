"""Style-transfer networks over rasters too large for memory."""

__version__ = "0.1.0"
