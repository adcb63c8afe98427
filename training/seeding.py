"""Random numbers that follow from what they are for, whoever draws them and when."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator"]


def generator(*key: object) -> torch.Generator:
    """A source of random numbers of its own for every key."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
