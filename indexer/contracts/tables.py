"""Read the job's own tables, as a finished step of the night committed them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from indexer.contracts.raw import readable
from indexer.contracts.schemas import Table
from indexer.errors import ContractError
from indexer.runs import StepFolder

BATCH_ROWS = 5_000


def read_table(work: str | Path, run_date: str, table: Table, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield the named columns, or all, in batches of the contract's types.

    Raises ContractError where the step has not finished, or where its files are not the contract's.
    """
    # Where pandas is installed it comes along, and a build without tables of the night has no need of either.
    import pyarrow.dataset as ds

    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    folder = StepFolder(work, table.written_by, run_date).table_folder(table.name)
    if not folder.is_dir():
        raise ContractError(f"table {table.name}: no folder {folder}; run the step {table.written_by} again")
    with readable(folder):
        dataset = ds.dataset(str(folder), format=parquet, exclude_invalid_files=False)
    names = list(columns) or [column.name for column in table.columns]
    missing = sorted(set(names) - set(dataset.schema.names))
    if missing:
        raise ContractError(
            f"table {table.name} in {folder}: no column {missing[0]!r}; run the step {table.written_by} again"
        )
    schema = pa.schema([table.schema.field(name) for name in names])
    batches = dataset.to_batches(columns=names, batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1)
    with readable(folder):
        for batch in batches:
            yield batch.cast(schema)
