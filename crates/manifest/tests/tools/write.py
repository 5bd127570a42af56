"""Writes the Parquet files beside it: the same two rows, as tools write them.

    pip install pyarrow pandas polars duckdb && python write.py
"""

import decimal
import pathlib

import duckdb
import pandas
import polars
import pyarrow
import pyarrow.parquet

FOLDER = pathlib.Path(__file__).parent
ROWS = {
    "custom_id": [1, 2],
    "reference": ["sea.png", "sea.png"],
    "prompt": ["a red circle on a beach", "a blue square in a desert"],
    "subjects": [["circle"], None],
    "seed": [7, 8],
    "steps": [30, 40],
    "strength": [0.8, 0.5],
    "licence": ["CC0", "CC-BY"],
    "year": [2024, 2025],
}
TABLE = pyarrow.table(ROWS)


def arrow(name, table=TABLE, **options):
    pyarrow.parquet.write_table(table, FOLDER / f"{name}.parquet", **options)


def column(name, values):
    return TABLE.set_column(TABLE.schema.get_field_index(name), name, values)


for codec in ("none", "snappy", "gzip", "zstd", "brotli", "lz4"):
    arrow(f"arrow-{codec}", compression=codec)
arrow("arrow-pages-v2", data_page_version="2.0", compression="gzip")
arrow("arrow-no-dictionary", use_dictionary=False)
delta = {"prompt": "DELTA_LENGTH_BYTE_ARRAY", "seed": "DELTA_BINARY_PACKED"}
arrow("arrow-delta", use_dictionary=False, column_encoding=delta)
arrow("arrow-delta-pages-v2", use_dictionary=False, data_page_version="2.0", column_encoding=delta)
# Each value may go on from the one before it: what grows so is refused.
(FOLDER / "refused").mkdir(exist_ok=True)
arrow("refused/delta-byte-array", use_dictionary=False, column_encoding={"prompt": "DELTA_BYTE_ARRAY"})
arrow("arrow-row-groups", row_group_size=1)
arrow("arrow-large-strings", column("prompt", pyarrow.array(ROWS["prompt"], pyarrow.large_string())))
arrow("arrow-dictionary", column("prompt", pyarrow.array(ROWS["prompt"]).dictionary_encode()))
arrow("arrow-float32", column("strength", pyarrow.array(ROWS["strength"], pyarrow.float32())))
arrow("arrow-uint8", column("steps", pyarrow.array(ROWS["steps"], pyarrow.uint8())))
DECIMALS = {
    "custom_id": pyarrow.array([decimal.Decimal(1), decimal.Decimal(2)], pyarrow.decimal128(38, 0)),
    "seed": pyarrow.array([decimal.Decimal("7.00"), decimal.Decimal("8.00")]),
    "strength": pyarrow.array([decimal.Decimal("0.80"), decimal.Decimal("0.50")]),
}
arrow("arrow-decimals", pyarrow.table({**ROWS, **DECIMALS}))
# A picture in the table, as data sets on a hub have them: bytes and a path. It is not read.
picture = pyarrow.array([{"bytes": b"\x89PNG" * 1000, "path": "a.png"}] * 2)
embedding = pyarrow.array([b"\0" * 8000] * 2)
arrow("arrow-pictures", TABLE.append_column("image", picture).append_column("embedding", embedding))
arrow("arrow-null-column", TABLE.append_column("guidance", pyarrow.nulls(2)))

frame = pandas.DataFrame(ROWS)
frame[frame.year > 0].to_parquet(FOLDER / "pandas-index.parquet", index=True)
empty = pandas.DataFrame({**ROWS, "seed": [7, None], "steps": [30.0, None], "custom_id": [1.0, 2.0]})
empty.to_parquet(FOLDER / "pandas-floats.parquet", index=False)
frame.astype({"prompt": "category", "licence": "string"}).to_parquet(FOLDER / "pandas-category.parquet", index=False)

polars.DataFrame(ROWS).write_parquet(FOLDER / "polars.parquet")
polars.DataFrame(ROWS).write_parquet(FOLDER / "polars-lz4.parquet", compression="lz4")
polars.DataFrame(ROWS).write_parquet(FOLDER / "polars-brotli.parquet", compression="brotli")

duckdb.register("t", TABLE)
for name, options in {"duckdb": "", "duckdb-v2": ", PARQUET_VERSION V2", "duckdb-gzip": ", COMPRESSION GZIP"}.items():
    duckdb.sql(f"COPY (SELECT * FROM t) TO '{FOLDER}/{name}.parquet' (FORMAT PARQUET{options})")
decimals = "SELECT * REPLACE (seed::DECIMAL(18,2) AS seed, strength::DECIMAL(4,2) AS strength) FROM t"
duckdb.sql(f"COPY ({decimals}) TO '{FOLDER}/duckdb-decimals.parquet' (FORMAT PARQUET)")
