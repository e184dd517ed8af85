"""Parquet files from anywhere, read as plain values.

A file may declare a column to be of a type that some package registered, and Ray Data registers one whose
values are pickles: in a process that has imported it, merely looking at such a value runs what is in it. No
file of ours has such types, so whatever declares one is refused before a value is looked at.
"""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class ForeignTypeError(pa.ArrowInvalid):  # type: ignore[misc]
    """A column is of a type that is no plain one."""


def read_table(stream: Any, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a file; unset takes all.

    Raises:
        ForeignTypeError: a column has values that are more than data.
        pyarrow.ArrowException: the file is damaged, or has no such columns.
    """
    table = pq.read_table(stream, columns=columns, page_checksum_verification=True)
    _refuse_foreign(table.schema)
    return table


def open_file(stream: Any, *, pre_buffer: bool = False) -> pq.ParquetFile:
    """Open a file, to read it by row groups.

    Raises:
        ForeignTypeError: a column has values that are more than data.
        pyarrow.ArrowException: the file is damaged.
    """
    file = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=pre_buffer)
    _refuse_foreign(file.schema_arrow)
    return file


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as the content of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _refuse_foreign(schema: pa.Schema) -> None:
    for field in schema:
        if found := _foreign(field.type):
            raise ForeignTypeError(
                f"column {field.name!r} has values of the type {found.extension_name!r}, not plain ones: "
                "looking at them could run code, so the file is not read"
            )


def _foreign(kind: pa.DataType) -> pa.BaseExtensionType | None:
    """Find an extension type in a type, at any depth."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    inner = [kind.value_type] if pa.types.is_dictionary(kind) else []
    inner += [kind.field(place).type for place in range(kind.num_fields)]
    return next(filter(None, map(_foreign, inner)), None)
