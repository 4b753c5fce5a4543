"""Random numbers that depend on named keys alone, never on what was drawn before.

`generator(seed, "order", epoch)` is the same stream in every process, after any resume and on any device,
because it is drawn on the CPU from a hash of its keys.
"""

from __future__ import annotations

import hashlib

import torch


def mix(*keys: int | str) -> int:
    """A 63-bit integer from a tuple of keys (SHA-256 of their text)."""
    digest = hashlib.sha256("\0".join(f"{type(k).__name__}:{k}" for k in keys).encode()).digest()
    # torch's CPU generator looks at the low 32 bits alone: a hash spreads every key over those.
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator seeded by `keys`."""
    return torch.Generator().manual_seed(mix(*keys))
