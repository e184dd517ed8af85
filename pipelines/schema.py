"""Units, classes, and the Arrow schema of every table; see docs/data.md.

A changed column needs another SCHEMA_VERSION: a run does not continue an output of another version. Shards of
earlier versions can be read: version 1 has no `bandwidth_hz`, which then counts as null.
"""

from itertools import pairwise

import pyarrow as pa

SCHEMA_VERSION = 2

SAMPLE_RATE = 44_100
CHANNELS = 2
EXCERPT_SECONDS = 3
EXCERPT_FRAMES = EXCERPT_SECONDS * SAMPLE_RATE

STEMS = (  # the classes of MoisesDB, by its folder names
    "bass",
    "bowed_strings",
    "drums",
    "guitar",
    "other",
    "other_keys",
    "other_plucked",
    "percussion",
    "piano",
    "vocals",
    "wind",
)
MIXTURE = "mixture"  # the class of a whole song
VOCALS = "vocals"

SPLITS = ("train", "valid", "test")
SONG = "song"  # the category of whole-song excerpts
CATEGORIES = ("vocal", "single_stem", "multi_stems", "multi_stems_vocal", SONG)

_FILE = pa.struct(
    [
        ("path", pa.string()),  # as found in the data set
        ("readable", pa.string()),  # what render reads: the path itself, or the name of its FLAC in the cache
        ("scale", pa.float32()),  # factor that undoes the headroom of the cached FLAC; 1 when read as found
        ("channels", pa.int32()),
        ("frames", pa.int64()),  # at 44.1 kHz
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
    ]
)

SOURCES = pa.schema(
    [
        ("source_id", pa.string()),
        ("dataset", pa.string()),
        ("song_id", pa.string()),
        ("group_id", pa.string()),  # songs of one group are in one split
        ("artist", pa.string()),
        ("title", pa.string()),
        ("stem", pa.string()),
        ("split", pa.string()),
        ("files", pa.list_(_FILE)),  # summed
        ("frames", pa.int64()),
        ("segments", pa.int32()),
        ("lossy", pa.bool_()),
        ("bandwidth_hz", pa.int32()),  # of the song's widest source; of a lossy one, the widest lossy
        ("left_out", pa.string()),  # why it is not a clean target; null when used
    ]
)

SEGMENTS = pa.schema(
    [
        ("source_id", pa.string()),
        ("start", pa.int64()),  # samples
        ("frames", pa.int32()),  # samples
        ("rms_db", pa.float32()),
        ("active_starts", pa.uint32()),  # bit k: the 3 s from start + k * 4410 are active themselves
    ]
)

_COMPONENT = pa.struct(
    [("stem", pa.string()), ("source_id", pa.string()), ("start", pa.int64()), ("gain_db", pa.float32())]
)

RECIPES = pa.schema(
    [
        ("recipe_id", pa.string()),
        ("split", pa.string()),
        ("shard", pa.int32()),
        ("category", pa.string()),
        ("songs_repeat", pa.bool_()),  # two components had to share a song
        ("components", pa.list_(_COMPONENT)),
    ]
)

REJECTS = pa.schema(
    [
        ("stage", pa.string()),  # scan: a file or source; render: a recipe
        ("id", pa.string()),
        ("path", pa.string()),
        ("reason", pa.string()),
        ("kind", pa.string()),  # of the reason, one of RejectKind; null in older outputs
    ]
)


def shards(degradations: tuple[str, ...]) -> pa.Schema:
    """Return the schema of a shard with these degradations, named `<codec>_<bitrate>`."""
    fields: list[tuple[str, pa.DataType]] = [
        ("recipe_id", pa.string()),
        ("split", pa.string()),
        ("category", pa.string()),
        ("stems", pa.list_(pa.string())),
        ("components", pa.list_(_COMPONENT)),
        ("songs_repeat", pa.bool_()),
        ("mix_gain_db", pa.float32()),
        ("bandwidth_hz", pa.int32()),  # up to which the mix is known; null if completely
        ("sample_rate", pa.int32()),
        ("frames", pa.int32()),
        ("clean", pa.binary()),  # FLAC, 16 bit: the encoder's input
    ]
    fields += [(name, pa.binary()) for name in degradations]
    fields += [(f"{name}_gain", pa.float32()) for name in degradations]
    fields += [(f"{name}_bitrate_bps", pa.int32()) for name in degradations]
    return pa.schema(fields, metadata={b"apollo.schema_version": str(SCHEMA_VERSION).encode()})


def shard_name(split: str, shard: int) -> str:
    """Return the name of a shard without folder and extension: `train-00042`."""
    return f"{split}-{shard:05d}"


def shard_path(split: str, shard: int) -> str:
    """Return the path of a shard in the output."""
    return f"{split}/shard-{shard:05d}.parquet"


def commit_path(split: str, shard: int) -> str:
    """Return the path of a shard's commit object in the output."""
    return f"commits/{shard_name(split, shard)}.json"


CLEAN = "clean"  # the codec's input; reserved, not a name for a model
UNTOUCHED = "untouched"  # the codec's output, unchanged
SCORED, SILENT, NOT_FINITE, UNREADABLE = "scored", "silent", "not_finite", "unreadable"
STATUSES = (SCORED, SILENT, NOT_FINITE, UNREADABLE)  # of an item: scored, or why not
BANDS_HZ = (0, 4_000, 8_000, 12_000, 16_000, 22_050)
ERROR_BANDS = tuple(f"error_{low}_{high}_hz" for low, high in pairwise(BANDS_HZ))
LEVEL_BANDS = tuple(f"level_{name}" for name in ERROR_BANDS)
METRICS = (
    "sdr",
    "si_snr",
    "visqol",
    "zimtohrli",
    "two_f",
    "snr",
    "lsd_high",
    "flatness_high",
    "si_snr_mid",
    "si_snr_side",
    *ERROR_BANDS,
    *LEVEL_BANDS,
)
METRICS_VERSION = 2  # of their definitions: an evaluation does not continue an output of another version

SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("item", pa.string()),  # a recipe id, or the name of a pair
        ("songs", pa.list_(pa.string())),  # the groups of songs that it is made of
        ("category", pa.string()),
        ("degradation", pa.string()),
        ("bitrate_bps", pa.int32()),  # as requested from the encoder; null if unknown
        ("status", pa.string()),
        ("reason", pa.string()),  # why it is not scored
        *((name, pa.float64()) for name in METRICS),  # null where undefined, never NaN
    ],
    metadata={
        b"apollo.schema_version": str(SCHEMA_VERSION).encode(),
        b"apollo.metrics_version": str(METRICS_VERSION).encode(),
    },
)
