"""Read untrusted Parquet files, and write ours.

A file may declare a column with an extension type that some package registered, and Ray Data registers one
whose values are pickles: in a process that has imported Ray Data, accessing such a value executes the pickle.
Our files have no extension types, so a file with one is refused before a value is accessed.
"""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class ForeignTypeError(pa.ArrowInvalid):  # type: ignore[misc]
    """A column has an extension type."""


def read_table(stream: Any, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a file; all by default.

    Raises:
        ForeignTypeError: a column has an extension type.
        pyarrow.ArrowException: the file is damaged, or has no such column.
    """
    table = pq.read_table(stream, columns=columns, page_checksum_verification=True)
    _refuse_foreign(table.schema)
    return table


def open_file(stream: Any, *, pre_buffer: bool = False) -> pq.ParquetFile:
    """Open a file to read it by row groups.

    Raises:
        ForeignTypeError: a column has an extension type.
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
                f"column {field.name!r} has the extension type {found.extension_name!r}: reading its "
                "values could execute code, so the file is refused"
            )


def _foreign(kind: pa.DataType) -> pa.BaseExtensionType | None:
    """Return the extension type in a type, at any depth, if there is one."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    inner = [kind.value_type] if pa.types.is_dictionary(kind) else []
    inner += [kind.field(place).type for place in range(kind.num_fields)]
    return next(filter(None, map(_foreign, inner)), None)
