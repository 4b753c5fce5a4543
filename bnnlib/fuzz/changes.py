"""Bytes and documents, changed at random."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any


def flipped(draw: random.Random, raw: bytes) -> bytes:
    """``raw`` with bits flipped, bytes overwritten, a stretch removed, repeated or cut off; never ``raw`` itself."""
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(changed)) if changed else 0
        stretch = draw.choice((1, 4, 8, 100))
        how = draw.randrange(6)
        if how == 0 or not changed:
            changed[at : at + stretch] = draw.randbytes(stretch)
        elif how == 1:
            changed[at] ^= 1 << draw.randrange(8)
        elif how == 2:
            del changed[at : at + stretch]
        elif how == 3:
            changed[at:at] = changed[at : at + stretch] * draw.choice((1, 3))
        elif how == 4:
            number = draw.choice((0, 1, 0x7F, 0xFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            changed[at : at + 8] = number.to_bytes(8, draw.choice(("little", "big")))
        else:
            del changed[at:]
    return bytes(changed) if changed != raw else bytes(raw) + b"\0"


STRANGE = [
    None, -1, 0, 1, 2, 7, 2**16, 2**31 - 1, 2**31, 2**63, 2**70, 10**400, 0.5, 1e30, 1e308, "", "x", "\x1b[2J\r\n", "\ud800", "images",
    [], {}, True, False, [[]], [1], [1, 1], [0, 0], [2**20, 2**20], {"op": 1},
]  # fmt: skip


def places(node: Any, trail: tuple = ()):
    """Where values are in a JSON document."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield (*trail, key)
            yield from places(node[key], (*trail, key))


def disturbed(draw: random.Random, document: Any) -> Any:
    """A copy of a JSON document with some values changed, removed, doubled, or taken from elsewhere in it."""
    document = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        known = list(places(document))
        if not known:
            break
        *way, key = draw.choice(known)
        node = document
        for step in way:
            node = node[step]
        how = draw.randrange(5)
        if how == 0 and isinstance(node, dict):
            del node[key]
        elif how == 1 and isinstance(node, list):
            node.insert(key, json.loads(json.dumps(node[key])))
        elif how == 2:
            other = document
            for step in draw.choice(known):
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    other = other[step]
            node[key] = json.loads(json.dumps(other)) if len(json.dumps(other)) < 5000 else None
        elif how == 3 and type(node[key]) is int:
            node[key] = draw.choice((node[key] - 1, node[key] + 1, 2 * node[key], node[key] // 2))
        else:
            node[key] = json.loads(json.dumps(draw.choice(STRANGE)))
    return document
