"""Tables from stored DICOM values to the 8-bit values that a screen shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.sources.dicom_header import number

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["grey_table", "palette_table"]


def grey_table(header: Dataset) -> NDArray[np.uint8] | None:
    """The table for a MONOCHROME1 or MONOCHROME2 picture, or None when the values are as shown.

    The order is the standard's: rescale (PS3.3 C.11.1), then the first window (C.11.2.1.2), then
    inversion for MONOCHROME1. Without a window the full range that BitsStored allows is spread
    over 0 to 255; it is not the range of one frame, which would make a recording flicker.

    Args:
        header: the elements of the Image Pixel, Modality LUT and VOI LUT modules.

    Returns:
        uint8 `(2 ** BitsAllocated,)`, indexed by the stored value as an unsigned number, or None.
    """
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    signed = bool(header.get("PixelRepresentation", 0))
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    slope = number(header, "RescaleSlope") or 1.0
    intercept = number(header, "RescaleIntercept") or 0.0
    center, width = number(header, "WindowCenter"), number(header, "WindowWidth")
    windowed = center is not None and width is not None and width > 0
    # With neither window nor wider samples, rescaling changes nothing that a screen shows.
    if stored == allocated == 8 and slope > 0 and not (signed or inverted or windowed):
        return None

    codes = np.arange(2**allocated, dtype=f"uint{allocated}")
    values = codes.view(f"int{allocated}") if signed else codes
    rescaled = values.astype(np.float64) * slope + intercept
    if windowed and center is not None and width is not None:
        shown = _window(rescaled, center, width, str(header.get("VOILUTFunction") or "LINEAR"))
    else:
        lowest = -(2 ** (stored - 1)) if signed else 0
        ends = [bound * slope + intercept for bound in (lowest, lowest + 2**stored - 1)]
        shown = (rescaled - min(ends)) / (max(ends) - min(ends))
    table = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    return 255 - table if inverted else table


def palette_table(header: Dataset) -> NDArray[np.uint8]:
    """The table for a PALETTE COLOR picture (PS3.3 C.7.6.3.1.5).

    Returns:
        uint8 `(2 ** BitsAllocated, 3)`, RGB, indexed by the stored value.

    Raises:
        ValueError: the palette is missing or damaged.
    """
    from pydicom.pixels.processing import apply_color_lut

    codes = np.arange(2 ** int(header.BitsAllocated))
    try:
        colors = np.asarray(apply_color_lut(codes, header))[:, :3]
    except (AttributeError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(str(error)) from None
    # 16-bit entries hold the color in the high byte, unless their writer meant 8 bits.
    shift = 8 if colors.max() > 255 else 0
    return np.ascontiguousarray(colors >> shift, dtype=np.uint8)


def _window(
    values: NDArray[np.float64], center: float, width: float, function: str
) -> NDArray[np.float64]:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    if width <= 1:
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5
