"""Training and validation examples from shards, in an order that does not depend on the number of workers.

A worker reads any positions. Row groups are fetched one window ahead and decoded some examples ahead, both in
threads, while the model computes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from apollo.training.data import Example
from pipelines.dataset.bad_rows import BadRowLog, CorruptDataError, Reject
from pipelines.dataset.sampling import Order, RowRef, SequentialOrder, ShuffledOrder
from pipelines.dataset.shard_reader import CorruptRowError, EncodedRow, Rows, decode
from pipelines.dataset.split import CommittedSplit
from pipelines.loading.config import LoaderConfig
from pipelines.loading.examples import make_training_example
from pipelines.loading.prefetch import check_increasing, drain, submit_ahead
from pipelines.loading.source_bitrates import read_row_bitrates, usable_degradations
from pipelines.storage.folder import Folder


class _ShardExamples:
    """The committed rows of a split as a stream of examples."""

    def __init__(
        self, output: str, config: LoaderConfig, split: str, on_reject: Callable[[Reject], None] | None
    ) -> None:
        self.config, self._output = config, output
        self._split = CommittedSplit(output, split, config.degradations)
        self.num_rows = self._split.num_rows
        self.degradations = self._split.degradations
        limited = config.below_source_bitrate
        self._row_bitrates = read_row_bitrates(Folder(output), self._split) if limited else {}
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
        """Rows and shards that this process has skipped, each once."""
        return self._rejects.rejects

    @property
    def fingerprint(self) -> str:
        """Hash of the data: a run resumed on other data would see other examples."""
        return self._split.fingerprint

    def _order(self) -> Order:
        raise NotImplementedError

    def _degradation(self, ref: RowRef) -> str:
        raise NotImplementedError

    def _usable(self, ref: RowRef) -> Sequence[str]:
        """Return the degradations below the bitrates of the sources of a row."""
        bitrate = self._row_bitrates.get((ref.shard, ref.row))
        return self.degradations if bitrate is None else usable_degradations(self.degradations, bitrate)

    def _example(self, row: EncodedRow, index: int) -> Example:
        raise NotImplementedError

    def _stream(self, indices: Iterable[int]) -> Iterator[Example]:
        """Yield examples in order; the threads end with the iterator, however it ends."""
        fetching = ThreadPoolExecutor(self.config.fetch_threads, "fetch")
        decoding = ThreadPoolExecutor(self.config.decode_threads, "decode")
        try:
            fetched = self._fetched(indices, fetching)
            for (ref, _), made in submit_ahead(fetched, self._make_fetched, decoding, self.config.look_ahead):
                yield self._result_or_replacement(ref, made)
        finally:
            fetching.shutdown(wait=False, cancel_futures=True)
            decoding.shutdown(wait=True, cancel_futures=True)
            fetching.shutdown(wait=True)

    def _fetched(
        self, indices: Iterable[int], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[RowRef, Future[Rows]]]:
        """Yield every ref with the future of its shard's rows, fetched one window ahead."""
        ahead: deque[list[tuple[RowRef, Future[Rows]]]] = deque()
        for refs in self._order().windows(indices):
            ahead.append(self._fetch(refs, pool))
            if len(ahead) > 1:
                yield from drain(ahead.popleft())
        while ahead:
            yield from drain(ahead.popleft())

    def _fetch(self, refs: list[RowRef], pool: ThreadPoolExecutor) -> list[tuple[RowRef, Future[Rows]]]:
        wanted: dict[int, dict[int, str]] = {}
        for ref in refs:
            wanted.setdefault(ref.shard, {})[ref.row] = self._degradation(ref)
        jobs = {shard: pool.submit(self._split.reader.read, shard, rows) for shard, rows in wanted.items()}
        return [(ref, jobs[ref.shard]) for ref in refs]

    def _make_fetched(self, fetched: tuple[RowRef, Future[Rows]]) -> Example:
        ref, rows = fetched
        return self._make(ref, rows.result().pop(ref.row))  # pop: its bytes are not needed again

    def _make(self, ref: RowRef, row: EncodedRow | CorruptRowError) -> Example:
        if isinstance(row, CorruptRowError):
            raise row
        return self._example(row, ref.position)

    def _result_or_replacement(self, ref: RowRef, made: Future[Example]) -> Example:
        try:
            return made.result()
        except CorruptRowError as error:
            self._rejects.add(error)
        return self._replacement(ref.position)

    def _replacement(self, index: int) -> Example:
        """Return the next valid example in the order: the same one on every worker."""
        for later in range(index + 1, index + self.num_rows + 1):
            ref = self._order().at(later)
            try:
                read = self._split.reader.read(ref.shard, {ref.row: self._degradation(ref)})
                return self._make(ref, read[ref.row])
            except CorruptRowError as error:
                self._rejects.add(error)
        raise CorruptDataError(f"no row of {self._output} is valid; run preprocess on it again")


class ShardSource(_ShardExamples):
    """Training examples: shuffled, with random degradation, piece, level and augmentation.

    Everything is a function of (seed, epoch, position): see `pipelines.dataset.sampling`. Epochs are
    consecutive parts of the stream of passes, so an epoch may be shorter or longer than a pass.

    Args:
        output: Path or URI of an output of preprocess.
        config: Configuration of the loader.
        epoch_examples: Examples of an epoch, of all workers together.
        seed: Another seed gives another order and other draws.
        split: Name of the split.
        on_reject: Called once with each skipped row, from the reading thread.

    Raises:
        UsageError: the split has no rows, is not complete, or lacks a degradation.
        CorruptDataError: a shard differs in size from its commit, and the policy is `stop`.
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
            raise ValueError(f"epoch_examples is {epoch_examples}: it must be at least 1")
        super().__init__(output, config or LoaderConfig(), split, on_reject)
        self._epoch_examples, self._seed = epoch_examples, seed
        self._choice = self.config.choose_degradations(self.degradations, seed)
        window = self.config.window_shards
        self._shuffled = ShuffledOrder(self._split.rows, seed=seed, window_shards=window)

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the examples at these positions of an epoch; see `apollo.training.data.ExampleSource`."""
        return self._stream(
            epoch * self._epoch_examples + position for position in check_increasing(positions)
        )

    def _order(self) -> ShuffledOrder:
        return self._shuffled

    def _degradation(self, ref: RowRef) -> str:
        return self._choice.draw(self._usable(ref), ref.position)

    def _example(self, row: EncodedRow, index: int) -> Example:
        levels, piece_samples = self.config.levels, self.config.piece_samples
        return make_training_example(row, levels, piece_samples=piece_samples, seed=self._seed, index=index)


class ValidationSource(_ShardExamples):
    """Validation examples: always the same in the same order, at the levels that `apollo restore` gets.

    Example i has degradation i modulo their number, of those below its sources' bitrates. Levels are the
    decoder's, without compensation.

    Args:
        output: Path or URI of an output of preprocess.
        config: Configuration of the loader; its levels and pieces are not used.
        limit: Maximum number of examples.
        split: Name of the split.
        on_reject: Called once with each skipped row.

    Raises:
        UsageError: the split has no rows, is not complete, or lacks a degradation.
        CorruptDataError: a shard differs in size from its commit, and the policy is `stop`.
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
            raise ValueError(f"limit is {limit}: it must be at least 1, or unset")
        super().__init__(output, config or LoaderConfig(), split, on_reject)
        self._fixed = SequentialOrder(self._split.rows, limit=limit)

    def __len__(self) -> int:
        return self._fixed.num_rows

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the examples at these positions, the same in every epoch; after the last comes the first."""
        return self._stream(check_increasing(positions))

    def _order(self) -> SequentialOrder:
        return self._fixed

    def _degradation(self, ref: RowRef) -> str:
        usable = self._usable(ref)
        return usable[ref.position % len(self) % len(usable)]

    def _example(self, row: EncodedRow, index: int) -> Example:
        return Example(*decode(row), row.name, row.bandwidth_hz)
