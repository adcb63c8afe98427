"""What is said in the same words wherever it is said: screens, videos, reports."""

from __future__ import annotations

__all__ = ["DISCLAIMER", "NO_DEVICE", "percent", "weeks"]

NO_DEVICE = "Not a medical device"
"""Where there is room for no more."""

DISCLAIMER = f"{NO_DEVICE}: for research and engineering, never for diagnosis."

_MOST_PERCENT = 99
"""No picture is certain to show what it is named."""


def percent(share: float) -> str:
    """A confidence, 0 to 1, which ends at 99 %."""
    return f"{min(_MOST_PERCENT, round(100 * share))} %"


def weeks(days: int) -> str:
    """Weeks and days as obstetrics writes them: 23+4."""
    return f"{days // 7}+{days % 7}"
