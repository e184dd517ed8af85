"""Random numbers as hashes of what they are for, so that any of them can be drawn alone and in any order.

Word k of a stream is SplitMix64's k-th (Steele, Lea and Flood, 2014), and the stream's start is a hash of its
keys. Nothing here depends on the version of a library: a run resumed years later draws the same.
"""

import hashlib
from functools import lru_cache

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15

Key = int | str


@lru_cache(maxsize=1024)
def _start(*keys: Key) -> int:
    text = "\n".join(str(key) for key in keys)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def word(index: int, *keys: Key) -> int:
    """Draw 64 random bits.

    Args:
        index: Which of the stream, from 0.
        keys: Name of the stream: the seed, and what the numbers are for.
    """
    mixed = (_start(*keys) + (index + 1) * _STEP) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def unit(index: int, *keys: Key) -> float:
    """Draw uniformly from [0, 1)."""
    return float(word(index, *keys) >> 11) * 2.0**-53


def below(limit: int, index: int, *keys: Key) -> int:
    """Draw an integer from 0 to limit - 1."""
    return word(index, *keys) * limit >> 64


def permutation(count: int, *keys: Key) -> list[int]:
    """Draw an order of 0 to count - 1."""
    return sorted(range(count), key=lambda number: (word(number, *keys), number))
