"""Which backend "auto" takes, and why it passes the others over."""

from __future__ import annotations

import pytest

from fetalclip_edge.backends import load_backend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BundleError

from .conftest import MakeBundle


def test_an_unknown_name_is_refused_with_the_known_ones(linear: ModelBundle) -> None:
    with pytest.raises(ValueError, match="choose one of auto, .*openvino, onnxruntime"):
        load_backend(linear, "cuda")


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_threads_out_of_range_are_refused(linear: ModelBundle, threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        load_backend(linear, threads=threads)


def test_a_bundle_without_a_graph_for_a_backend_is_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle({"abacus": {"int8": "encoder.cpu.onnx"}})
    with pytest.raises(BackendError, match="abacus"):
        load_backend(bundle)
    with pytest.raises(BundleError, match="no graph for 'onnxruntime'; it has: abacus"):
        load_backend(bundle, "onnxruntime")


def test_a_graph_changed_after_the_check_is_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle({"onnxruntime": {"int8": "encoder.cpu.onnx"}})
    with (bundle.folder / "encoder.cpu.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"encoder\.cpu\.onnx was changed"):
        load_backend(bundle)
