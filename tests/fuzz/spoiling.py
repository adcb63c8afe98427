"""Ways to spoil a file."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

PLACES = 2**16
"""A place in a file is a number below this, from its beginning to its end."""

Edit = tuple[str, int, int]

KINDS = ("byte", "bit", "16 bits", "32 bits", "cut out", "repeat", "insert", "cut off")
NOTABLE = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)

EDITS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, PLACES - 1),
        st.one_of(st.sampled_from(NOTABLE), st.integers(0, 2**32 - 1)),
    ),
    min_size=1,
    max_size=6,
)

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.sampled_from(["../x", "/dev/zero", "manifest.json", "prompts.safetensors", "", "\0"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
"""What may stand in a manifest in place of what should."""


def spoil(data: bytes, edits: list[Edit]) -> bytes:
    """The data after the edits, one after another."""
    spoiled = bytearray(data)
    for kind, place, value in edits:
        at = place * len(spoiled) // PLACES
        some = value % 64 + 1
        if kind == "byte":
            spoiled[at : at + 1] = bytes([value & 0xFF])
        elif kind == "bit" and spoiled:
            spoiled[at] ^= 1 << value % 8
        elif kind == "16 bits":
            # Both orders, by the parity of what the other half says.
            order = "big" if value >> 16 & 1 else "little"
            spoiled[at : at + 2] = (value & 0xFFFF).to_bytes(2, order)  # type: ignore[arg-type]
        elif kind == "32 bits":
            order = "big" if place & 1 else "little"
            spoiled[at : at + 4] = value.to_bytes(4, order)  # type: ignore[arg-type]
        elif kind == "cut out":
            del spoiled[at : at + some]
        elif kind == "repeat":
            spoiled[at:at] = spoiled[at : at + some]
        elif kind == "insert":
            spoiled[at:at] = value.to_bytes(4, "little") * (some // 4)
        elif kind == "cut off":
            del spoiled[at:]
    return bytes(spoiled)


def replace_value(manifest: bytes, place: int, value: Any) -> bytes:
    """The manifest with another value, or with none, somewhere in it."""
    tree = json.loads(manifest)
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            nodes.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    parent, key = nodes[place * len(nodes) // PLACES]
    if value is None:
        del parent[key]
    else:
        parent[key] = value
    return json.dumps(tree).encode()
