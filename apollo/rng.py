"""Counter-based random numbers: pure functions of (keys, index), in any order.

Number k of a stream is the k-th output of SplitMix64 (Steele, Lea and Flood, 2014); its seed is a hash of the
keys. Independent of library versions: a run resumed years later draws the same numbers.
"""

import hashlib
from functools import lru_cache

_MASK = (1 << 64) - 1
STEP, MULTIPLIERS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64

Key = int | str


@lru_cache(maxsize=1024)
def stream_seed(*keys: Key) -> int:
    """Return the 64-bit seed of a stream: a hash of its keys."""
    text = "\n".join(str(key) for key in keys)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def random_bits(index: int, *keys: Key) -> int:
    """Return 64 random bits.

    Args:
        index: Position in the stream, from 0.
        keys: Name of the stream: the seed, and the purpose of the numbers.
    """
    mixed = (stream_seed(*keys) + (index + 1) * STEP) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * MULTIPLIERS[0]) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * MULTIPLIERS[1]) & _MASK
    return mixed ^ (mixed >> 31)


def uniform(index: int, *keys: Key) -> float:
    """Return a uniform number in [0, 1)."""
    return float(random_bits(index, *keys) >> 11) * 2.0**-53


def integer_below(limit: int, index: int, *keys: Key) -> int:
    """Return an integer from 0 to limit - 1."""
    return random_bits(index, *keys) * limit >> 64


def permutation(count: int, *keys: Key) -> list[int]:
    """Return a random permutation of 0 to count - 1."""
    return sorted(range(count), key=lambda number: (random_bits(number, *keys), number))
