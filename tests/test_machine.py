from __future__ import annotations

import os
from pathlib import Path

import pytest

from fetalclip_edge import machine
from fetalclip_edge.machine import describe_machine, device_name


def test_the_device_is_its_processor_where_there_is_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_JETSON", tmp_path / "model")
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "gpus")
    assert device_name() == f"{describe_machine()['processor']} ({os.cpu_count()} cores)"


def test_boards_and_gpus_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # As Linux and NVIDIA's driver write these files
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    for index, name in enumerate(("NVIDIA RTX A2000", "NVIDIA H100 PCIe")):
        folder = tmp_path / "gpus" / f"0000:0{index}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 31\n")
    monkeypatch.setattr(machine, "_JETSON", tmp_path / "model")
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "gpus")
    assert device_name().split("; ")[1:] == [
        "NVIDIA Jetson Orin Nano Developer Kit",
        "NVIDIA RTX A2000",
        "NVIDIA H100 PCIe",
    ]
