"""Edge and error of measurement, fitted to heads of known circumference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.head import FIRST_SPEC, Seen, edge_of, errors_mm, fit_head, see_heads
from fetalclip_edge.tasks.biometry import Found
from fetalclip_edge.tasks.ellipse import Ellipse, Fit


def seen(major: float, *, off_px: float, mm: float = 0.4, coverage: float = 1.0) -> Seen:
    """A head that is found so many pixels too large all around."""
    drawn = Ellipse(112, 112, major, 0.78 * major, 20)
    fit = Fit(drawn.grown(off_px), np.ones(100, bool), 0.01)
    return Seen(Found(fit, coverage, 0.0), mm, drawn.circumference * mm)


def test_the_edge_is_where_half_of_the_heads_are_too_large() -> None:
    heads = [seen(100 + 5 * i, off_px=off) for i, off in enumerate((1.0, 1.5, 2.0, 2.5, 9.0))]
    assert edge_of(heads) == pytest.approx(2.0, abs=0.01)


def test_a_fit_takes_the_edge_off_and_tells_what_error_is_left() -> None:
    rng = np.random.default_rng(0)
    heads = [seen(rng.uniform(90, 160), off_px=2.0 + rng.normal(0, 0.5)) for _ in range(1000)]
    fitted = fit_head(heads, FIRST_SPEC)
    assert fitted.edge_px == pytest.approx(2.0, abs=0.03)
    errors = errors_mm(heads, fitted)
    assert np.median(errors) == pytest.approx(0, abs=0.03)
    published = np.array([head.published_mm for head in heads])
    # Then 95 % of the circumferences are within 1.96 of what it claims for a standard deviation
    within = np.abs(errors) <= 1.96 * fitted.error_relative * published
    assert within.mean() == pytest.approx(0.95, abs=0.005)


def test_the_rim_is_part_of_the_edge_that_is_not_fitted() -> None:
    heads = [seen(120, off_px=1.2)] * 3
    fitted = fit_head(heads, replace(FIRST_SPEC, rim_px=0.4))
    assert (fitted.edge_px, fitted.rim_px) == (pytest.approx(0.8, abs=0.01), 0.4)


def test_heads_that_are_withheld_have_no_error() -> None:
    heads = [seen(120, off_px=0), seen(120, off_px=0, coverage=0.3), Seen(None, 0.4, 150.0)]
    assert np.isnan(errors_mm(heads, FIRST_SPEC)).tolist() == [False, True, True]


def test_no_head_at_all_is_an_error() -> None:
    logits = np.full((2, 1, 56, 56), -1, np.float32)
    nothing = see_heads(logits, [(540, 800)] * 2, 224, [0.1, 0.1], [170.0, 180.0])
    with pytest.raises(ValueError, match="no head was found"):
        edge_of(nothing)
