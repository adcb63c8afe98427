"""The accuracy gate tells what is beyond its limits, and by how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.gate import Gate, Judgement, judge
from export.graph import OUTPUT
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.facts import Facts

AXES = np.eye(9, dtype=np.float32)
PROMPTS = {"planes": AXES[:6], "brain_planes": AXES[6:]}


def example(plane: str, part: str | None = None, patient: int = 1) -> Example:
    facts = Facts(plane, part)
    return Example(Path("x.tar"), 0, 1, "x.png", facts, f"planes/{patient}", "train", 0, 64)


def towards(plane: str, part: str | None = None) -> np.ndarray:
    made = 0.9 * AXES[PLANES.index(plane)]
    if part is not None:
        made = made + 0.4 * AXES[6 + BRAIN_PLANES.index(part)]
    found: np.ndarray = made / np.linalg.norm(made)
    return found


KINDS = [
    *[("abdomen", None)] * 10,
    *[("femur", None)] * 10,
    *[("thorax", None)] * 10,
    *[("brain", part) for part in BRAIN_PLANES] * 4,
]
EXAMPLES = [example(*kind, patient) for patient, kind in enumerate(KINDS)]
RIGHT = np.stack([towards(*kind) for kind in KINDS]).astype(np.float32)


def judged(other: np.ndarray, gate: Gate | None = None) -> Judgement:
    return judge({OUTPUT: RIGHT}, {OUTPUT: other}, EXAMPLES, PROMPTS, gate or Gate())


def confused(count: int) -> np.ndarray:
    """So many of the four trans-ventricular planes taken for trans-thalamic ones."""
    other = RIGHT.copy()
    rows = [index for index, (_, part) in enumerate(KINDS) if part == "trans-ventricular"]
    other[rows[:count]] = towards("brain", "trans-thalamic")
    return other


def test_the_same_answers_pass() -> None:
    found = judged(RIGHT.copy())
    assert found.passed
    assert found.failures == []
    assert found.macro_f1 == {"planes": (1.0, 1.0), "brain_planes": (1.0, 1.0)}
    assert found.agreement == {"planes": 1.0, "brain_planes": 1.0}
    assert found.cosine_mean == pytest.approx(1, abs=1e-6)
    assert found.calibration_error[0] == found.calibration_error[1]


def test_a_femur_taken_for_an_abdomen_is_told_by_class() -> None:
    other = RIGHT.copy()
    other[10] = towards("abdomen")
    found = judged(other)
    # By hand: 10 right and 1 wrong abdomen, 9 of 10 femurs: F1 20 / 21 and 18 / 19.
    assert found.class_f1["planes"]["abdomen"][1] == pytest.approx(20 / 21)
    assert found.class_f1["planes"]["femur"][1] == pytest.approx(18 / 19)
    assert found.macro_f1["planes"][1] == pytest.approx((20 / 21 + 18 / 19 + 2) / 4)
    assert found.agreement["planes"] == pytest.approx(41 / 42)
    told = "; ".join(found.failures)
    assert "macro-F1 of the planes falls by 2.5 points, 1.000 -> 0.975 (at most 0.5)" in told
    assert "F1 of femur falls by 5.3 points, 1.000 -> 0.947 (at most 1.5)" in told
    assert "F1 of abdomen falls by 4.8 points" in told
    assert "thorax" not in told


def test_wide_limits_let_it_pass() -> None:
    other = RIGHT.copy()
    other[10] = towards("abdomen")
    gate = Gate(10, 10, mean_cosine=0.9, p01_cosine=-1, agreement=0.9, calibration_error_rise=1)
    assert judged(other, gate).passed


def test_embeddings_that_turn_away_fail_even_with_right_answers() -> None:
    aside = np.roll(AXES, 1, axis=0)[0]  # no class of planes
    other = 0.9 * RIGHT + 0.4 * aside
    other = (other / np.linalg.norm(other, axis=1, keepdims=True)).astype(np.float32)
    found = judged(other)
    assert found.agreement["planes"] == 1
    assert found.cosine_mean < 0.99
    assert any(f.startswith("the mean cosine with FP32 is 0.9") for f in found.failures)


def test_a_sub_plane_that_is_lost_fails_and_one_answer_that_chance_may_move_does_not() -> None:
    wide = Gate(mean_cosine=-1, p01_cosine=-1)
    lost = judged(confused(4), wide)
    # By hand: none of four found is F1 0 in every resample that holds one of them.
    assert lost.least_drop["trans-ventricular"] == 1
    told = "; ".join(lost.failures)
    assert (
        "F1 of trans-ventricular falls by at least 100.0 points (95 % interval; at most 1.5)"
        in told
    )
    assert "macro-F1 of the sub-planes falls by at least" in told
    one = judged(confused(1), wide)
    # By hand: 3 of 4 found is F1 6 / 7; 35 % of the draws of 12 patients lack the one it is of.
    assert one.class_f1["brain_planes"]["trans-ventricular"] == (1.0, pytest.approx(6 / 7))
    assert one.least_drop["trans-ventricular"] == 0
    assert one.passed


def test_answers_of_one_patient_alone_count_as_they_are() -> None:
    # Given the same lost answer, and all images of one patient
    wide = Gate(mean_cosine=-1, p01_cosine=-1)
    alone = [example(*kind) for kind in KINDS]
    found = judge({OUTPUT: RIGHT}, {OUTPUT: confused(1)}, alone, PROMPTS, wide)
    assert found.least_drop["trans-ventricular"] == pytest.approx(1 / 7)
    assert any(
        f.startswith("F1 of trans-ventricular falls by at least 14.3") for f in found.failures
    )


def test_a_map_that_turns_away_fails_by_its_name() -> None:
    maps = np.random.default_rng(0).normal(size=(len(RIGHT), 1, 4, 4)).astype(np.float32)
    turned = np.roll(maps, 1, axis=2)
    outputs, others = {OUTPUT: RIGHT, "head_logits": maps}, {OUTPUT: RIGHT, "head_logits": turned}
    assert judge(outputs, outputs, EXAMPLES, PROMPTS, Gate()).other_cosines == {
        "head_logits": pytest.approx(1)
    }
    found = judge(outputs, others, EXAMPLES, PROMPTS, Gate())
    [failure] = found.failures
    assert failure.startswith("the mean cosine of head_logits with FP32 is")


def test_what_is_not_a_number_fails() -> None:
    found = judged(np.full_like(RIGHT, np.nan))
    assert any("cosine with FP32 is nan" in failure for failure in found.failures)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not go with 42 images"):
        judged(RIGHT[:-1])
    with pytest.raises(ValueError, match="no validation image is labelled with a plane"):
        judge({OUTPUT: RIGHT[:1]}, {OUTPUT: RIGHT[:1]}, [example("cervix")], PROMPTS, Gate())


@pytest.mark.parametrize("name", ["macro_f1_drop", "mean_cosine", "agreement"])
@pytest.mark.parametrize("value", [-2.0, float("nan"), 101.0])
def test_limits_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie between"):
        Gate(**{name: value})
