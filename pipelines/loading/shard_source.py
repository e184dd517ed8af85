"""Training and validation examples from shards, in an order that any number of workers agrees on.

A worker reads the positions that it is given, whichever they are. Row groups are fetched a window ahead and
decoded some examples ahead, both in threads, so that this goes on while the model computes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from apollo import rng
from apollo.training.augmentation import LevelsConfig, set_levels
from apollo.training.data import Example
from pipelines.dataset.bad_rows import BadRowLog, CorruptDataError, Reject
from pipelines.dataset.sampling import RowRef, SequentialOrder, ShuffledOrder
from pipelines.dataset.shard_reader import CorruptRowError, EncodedRow, Rows, decode
from pipelines.dataset.split import CommittedSplit
from pipelines.loading.prefetch import check_increasing, submit_ahead


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How shards become examples.

    Memory: two windows of compressed rows, of which a worker keeps its own share (a row with one degradation
    is about 0.35 MB: 360 MB for a lone worker at 8 shards of 64 rows, 45 MB for one of eight), 2 MB for every
    example decoded ahead, and some 70 MB for the row groups that are being read.

    Args:
        degradations: Names of those to learn, such as mp3_24000; none takes all that the shards hold.
        levels: Levels and augmentation.
        window_shards: Shards whose rows are mixed with each other. More mixes better and takes more memory.
        look_ahead: Examples that are decoded ahead.
        decode_threads: Threads that decode.
        fetch_threads: Shards that are fetched at a time.
        corrupt: What happens at a row that cannot be used: `stop` ends the run, `skip` takes the next sound
            one in the order instead and lists it.
        max_corrupt_share: Largest share of the rows that may be skipped; more ends the run.
    """

    degradations: tuple[str, ...] = ()
    levels: LevelsConfig = field(default_factory=LevelsConfig)
    window_shards: int = 8
    look_ahead: int = 16
    decode_threads: int = 2
    fetch_threads: int = 4
    corrupt: Literal["stop", "skip"] = "stop"
    max_corrupt_share: float = 0.01

    def __post_init__(self) -> None:
        for name in ("window_shards", "look_ahead", "decode_threads", "fetch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"loader.{name} is {getattr(self, name)}: give 1 or more")
        if self.corrupt not in ("stop", "skip"):
            raise ValueError(f"loader.corrupt is {self.corrupt!r}: choose stop or skip")
        if not 0 <= self.max_corrupt_share < 1:
            raise ValueError(
                f"loader.max_corrupt_share is {self.max_corrupt_share}: give a share from 0 to below 1"
            )


class _AnyOrder(Protocol):
    num_rows: int

    def at(self, index: int) -> RowRef: ...

    def windows(self, indices: Iterable[int]) -> Iterator[list[RowRef]]: ...


class _ShardExamples:
    """A split of an output: what is committed, what of it is sound, and the rows as a stream of examples."""

    def __init__(
        self, output: str, config: LoaderConfig, split: str, on_reject: Callable[[Reject], None] | None
    ) -> None:
        self.config, self._output = config, output
        self._split = CommittedSplit(output, split, config.degradations)
        self.num_rows = self._split.num_rows
        self.degradations = self._split.degradations
        self._rejects = BadRowLog(
            output,
            self.num_rows,
            corrupt=config.corrupt,
            max_corrupt_share=config.max_corrupt_share,
            on_reject=on_reject,
        )
        for shard in sorted(self._split.damaged):
            self._rejects.add(self._split.reader.shard_error(shard))

    @property
    def rejects(self) -> list[Reject]:
        """What this process has left out, each once."""
        return self._rejects.rejects

    @property
    def fingerprint(self) -> str:
        """A hash of what is read: a run that is resumed on anything else would see other examples."""
        return self._split.fingerprint

    def _order(self) -> _AnyOrder:
        raise NotImplementedError

    def _degradation(self, index: int) -> str:
        raise NotImplementedError

    def _finish(self, clean: Tensor, degraded: Tensor, gain: float, index: int) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _stream(self, indices: Iterable[int]) -> Iterator[Example]:
        """Give examples in order; the threads end with the iterator, however that ends."""
        fetching = ThreadPoolExecutor(self.config.fetch_threads, "fetch")
        decoding = ThreadPoolExecutor(self.config.decode_threads, "decode")
        try:
            fetched = self._fetched(indices, fetching)
            for (ref, _), made in submit_ahead(fetched, self._make_fetched, decoding, self.config.look_ahead):
                yield self._settle(ref, made)
        finally:
            fetching.shutdown(wait=False, cancel_futures=True)
            decoding.shutdown(wait=True, cancel_futures=True)
            fetching.shutdown(wait=True)

    def _fetched(
        self, indices: Iterable[int], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[RowRef, Future[Rows]]]:
        """Give refs with the rows that they are among, which are fetched a window ahead."""
        ahead: deque[list[tuple[RowRef, Future[Rows]]]] = deque()
        for refs in self._order().windows(indices):
            ahead.append(self._fetch(refs, pool))
            if len(ahead) > 1:
                yield from _drain(ahead.popleft())
        while ahead:
            yield from _drain(ahead.popleft())

    def _fetch(self, refs: list[RowRef], pool: ThreadPoolExecutor) -> list[tuple[RowRef, Future[Rows]]]:
        wanted: dict[int, dict[int, str]] = {}
        for ref in refs:
            wanted.setdefault(ref.shard, {})[ref.row] = self._degradation(ref.position)
        jobs = {shard: pool.submit(self._split.reader.read, shard, rows) for shard, rows in wanted.items()}
        return [(ref, jobs[ref.shard]) for ref in refs]

    def _make_fetched(self, fetched: tuple[RowRef, Future[Rows]]) -> Example:
        ref, rows = fetched
        return self._make(ref, rows.result().pop(ref.row))  # popped: its bytes are not needed again

    def _make(self, ref: RowRef, row: EncodedRow | CorruptRowError) -> Example:
        if isinstance(row, CorruptRowError):
            raise row
        clean, degraded = decode(row)
        clean, degraded = self._finish(clean, degraded, row.gain, ref.position)
        return Example(clean, degraded, f"{row.recipe_id}/{row.degradation}")

    def _settle(self, ref: RowRef, made: Future[Example]) -> Example:
        try:
            return made.result()
        except CorruptRowError as error:
            self._rejects.add(error)
        return self._replacement(ref.position)

    def _replacement(self, index: int) -> Example:
        """Give the next sound example in the order: the same one on every worker."""
        for later in range(index + 1, index + self.num_rows + 1):
            ref = self._order().at(later)
            try:
                read = self._split.reader.read(ref.shard, {ref.row: self._degradation(later)})
                return self._make(ref, read[ref.row])
            except CorruptRowError as error:
                self._rejects.add(error)
        raise CorruptDataError(f"no row of {self._output} can be used; make its shards again")


def _drain(fetched: list[tuple[RowRef, Future[Rows]]]) -> Iterator[tuple[RowRef, Future[Rows]]]:
    """Give what a list holds, letting go of it."""
    fetched.reverse()
    while fetched:
        yield fetched.pop()


class ShardSource(_ShardExamples):
    """Training examples: shuffled, a degradation drawn for each, levels and augmentation drawn too.

    Everything is a function of (seed, epoch, position): see `pipelines.dataset.sampling`. Epochs follow each
    other in the stream of passes over all rows, so an epoch may be shorter or longer than a pass.

    Args:
        output: Path or URI of an output of preprocess.
        config: How shards become examples.
        epoch_examples: Examples of an epoch, of all workers together.
        seed: Another seed gives another order and other draws.
        split: Which split.
        on_reject: Called with each row that is left out, once, from the thread that reads.

    Raises:
        UsageError: there are no such shards, they are not finished, or they lack a degradation.
        CorruptDataError: a shard's size is not what its commit says, and the configuration says to stop.
    """

    def __init__(
        self,
        output: str,
        config: LoaderConfig | None = None,
        *,
        epoch_examples: int,
        seed: int = 0,
        split: str = "train",
        on_reject: Callable[[Reject], None] | None = None,
    ) -> None:
        if epoch_examples < 1:
            raise ValueError(f"epoch_examples is {epoch_examples}: give 1 or more")
        super().__init__(output, config or LoaderConfig(), split, on_reject)
        self._epoch_examples, self._seed = epoch_examples, seed
        window = self.config.window_shards
        self._shuffled = ShuffledOrder(self._split.rows, seed=seed, window_shards=window)

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Give the examples at these positions of an epoch; see `apollo.training.data.ExampleSource`."""
        return self._stream(check_increasing(epoch * self._epoch_examples, positions))

    def _order(self) -> ShuffledOrder:
        return self._shuffled

    def _degradation(self, index: int) -> str:
        return self.degradations[rng.integer_below(len(self.degradations), index, self._seed, "degradation")]

    def _finish(self, clean: Tensor, degraded: Tensor, gain: float, index: int) -> tuple[Tensor, Tensor]:
        return set_levels(clean, degraded, gain=gain, config=self.config.levels, seed=self._seed, index=index)


class ValidationSource(_ShardExamples):
    """Validation examples: the same ones in the same order always, and as `apollo restore` would get them.

    Example i has degradation i modulo their number. Levels are the decoder's: nothing is taken out, scaled,
    or drawn.

    Args:
        output: Path or URI of an output of preprocess.
        config: How shards become examples; its levels count for nothing.
        limit: Most examples.
        split: Which split.
        on_reject: Called with each row that is left out, once.

    Raises:
        UsageError: there are no such shards, they are not finished, or they lack a degradation.
        CorruptDataError: a shard's size is not what its commit says, and the configuration says to stop.
    """

    def __init__(
        self,
        output: str,
        config: LoaderConfig | None = None,
        *,
        limit: int | None = None,
        split: str = "valid",
        on_reject: Callable[[Reject], None] | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}: give 1 or more, or leave it unset")
        super().__init__(output, config or LoaderConfig(), split, on_reject)
        self._fixed = SequentialOrder(self._split.rows, limit=limit)

    def __len__(self) -> int:
        return self._fixed.num_rows

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Give the examples at these positions, the same in every epoch; after the last comes the first."""
        return self._stream(check_increasing(0, positions))

    def _order(self) -> SequentialOrder:
        return self._fixed

    def _degradation(self, index: int) -> str:
        return self.degradations[index % len(self) % len(self.degradations)]

    def _finish(self, clean: Tensor, degraded: Tensor, gain: float, index: int) -> tuple[Tensor, Tensor]:
        return clean, degraded
