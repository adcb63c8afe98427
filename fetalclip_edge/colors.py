"""Colours of the states, wherever a picture is drawn."""

from __future__ import annotations

__all__ = ["STATE_COLORS"]

# Of Okabe and Ito, which colour-blind people tell apart. The state is always also said in words.
STATE_COLORS: dict[str, tuple[int, int, int]] = {
    "live": (0, 158, 115),
    "frozen": (86, 180, 233),
    "out_of_domain": (230, 159, 0),
    "no_signal": (213, 94, 0),
    "stale": (204, 121, 167),
}
"""State -> red, green, blue, 0 to 255."""
