"""TPC-DS: its data, made on first use by DuckDB's own generator, and its keys, which that generator does not declare.

Source: TPC-DS Standard Specification, version 3.2, sections 2.3 and 2.4.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from rayfactory.databases.engine import Database
from rayfactory.databases.schema import ForeignKey
from rayfactory.errors import BenchmarkError

PRIMARY_KEYS: dict[str, tuple[str, ...]] = {
    "call_center": ("cc_call_center_sk",),
    "catalog_page": ("cp_catalog_page_sk",),
    "catalog_returns": ("cr_item_sk", "cr_order_number"),
    "catalog_sales": ("cs_item_sk", "cs_order_number"),
    "customer": ("c_customer_sk",),
    "customer_address": ("ca_address_sk",),
    "customer_demographics": ("cd_demo_sk",),
    "date_dim": ("d_date_sk",),
    "household_demographics": ("hd_demo_sk",),
    "income_band": ("ib_income_band_sk",),
    "inventory": ("inv_date_sk", "inv_item_sk", "inv_warehouse_sk"),
    "item": ("i_item_sk",),
    "promotion": ("p_promo_sk",),
    "reason": ("r_reason_sk",),
    "ship_mode": ("sm_ship_mode_sk",),
    "store": ("s_store_sk",),
    "store_returns": ("sr_item_sk", "sr_ticket_number"),
    "store_sales": ("ss_item_sk", "ss_ticket_number"),
    "time_dim": ("t_time_sk",),
    "warehouse": ("w_warehouse_sk",),
    "web_page": ("wp_web_page_sk",),
    "web_returns": ("wr_item_sk", "wr_order_number"),
    "web_sales": ("ws_item_sk", "ws_order_number"),
    "web_site": ("web_site_sk",),
}
"""Primary key of each of the 24 tables."""

_REFERENCES: dict[str, dict[str, str]] = {
    "call_center": {"date_dim": "cc_closed_date_sk cc_open_date_sk"},
    "catalog_page": {"date_dim": "cp_start_date_sk cp_end_date_sk"},
    "catalog_returns": {
        "date_dim": "cr_returned_date_sk",
        "time_dim": "cr_returned_time_sk",
        "item": "cr_item_sk",
        "customer": "cr_refunded_customer_sk cr_returning_customer_sk",
        "customer_demographics": "cr_refunded_cdemo_sk cr_returning_cdemo_sk",
        "household_demographics": "cr_refunded_hdemo_sk cr_returning_hdemo_sk",
        "customer_address": "cr_refunded_addr_sk cr_returning_addr_sk",
        "call_center": "cr_call_center_sk",
        "catalog_page": "cr_catalog_page_sk",
        "ship_mode": "cr_ship_mode_sk",
        "warehouse": "cr_warehouse_sk",
        "reason": "cr_reason_sk",
    },
    "catalog_sales": {
        "date_dim": "cs_sold_date_sk cs_ship_date_sk",
        "time_dim": "cs_sold_time_sk",
        "customer": "cs_bill_customer_sk cs_ship_customer_sk",
        "customer_demographics": "cs_bill_cdemo_sk cs_ship_cdemo_sk",
        "household_demographics": "cs_bill_hdemo_sk cs_ship_hdemo_sk",
        "customer_address": "cs_bill_addr_sk cs_ship_addr_sk",
        "call_center": "cs_call_center_sk",
        "catalog_page": "cs_catalog_page_sk",
        "ship_mode": "cs_ship_mode_sk",
        "warehouse": "cs_warehouse_sk",
        "item": "cs_item_sk",
        "promotion": "cs_promo_sk",
    },
    "customer": {
        "customer_demographics": "c_current_cdemo_sk",
        "household_demographics": "c_current_hdemo_sk",
        "customer_address": "c_current_addr_sk",
        "date_dim": "c_first_shipto_date_sk c_first_sales_date_sk c_last_review_date_sk",
    },
    "household_demographics": {"income_band": "hd_income_band_sk"},
    "inventory": {"date_dim": "inv_date_sk", "item": "inv_item_sk", "warehouse": "inv_warehouse_sk"},
    "promotion": {"date_dim": "p_start_date_sk p_end_date_sk", "item": "p_item_sk"},
    "store": {"date_dim": "s_closed_date_sk"},
    "store_returns": {
        "date_dim": "sr_returned_date_sk",
        "time_dim": "sr_return_time_sk",
        "item": "sr_item_sk",
        "customer": "sr_customer_sk",
        "customer_demographics": "sr_cdemo_sk",
        "household_demographics": "sr_hdemo_sk",
        "customer_address": "sr_addr_sk",
        "store": "sr_store_sk",
        "reason": "sr_reason_sk",
    },
    "store_sales": {
        "date_dim": "ss_sold_date_sk",
        "time_dim": "ss_sold_time_sk",
        "item": "ss_item_sk",
        "customer": "ss_customer_sk",
        "customer_demographics": "ss_cdemo_sk",
        "household_demographics": "ss_hdemo_sk",
        "customer_address": "ss_addr_sk",
        "store": "ss_store_sk",
        "promotion": "ss_promo_sk",
    },
    "web_page": {"date_dim": "wp_creation_date_sk wp_access_date_sk", "customer": "wp_customer_sk"},
    "web_returns": {
        "date_dim": "wr_returned_date_sk",
        "time_dim": "wr_returned_time_sk",
        "item": "wr_item_sk",
        "customer": "wr_refunded_customer_sk wr_returning_customer_sk",
        "customer_demographics": "wr_refunded_cdemo_sk wr_returning_cdemo_sk",
        "household_demographics": "wr_refunded_hdemo_sk wr_returning_hdemo_sk",
        "customer_address": "wr_refunded_addr_sk wr_returning_addr_sk",
        "web_page": "wr_web_page_sk",
        "reason": "wr_reason_sk",
    },
    "web_sales": {
        "date_dim": "ws_sold_date_sk ws_ship_date_sk",
        "time_dim": "ws_sold_time_sk",
        "item": "ws_item_sk",
        "customer": "ws_bill_customer_sk ws_ship_customer_sk",
        "customer_demographics": "ws_bill_cdemo_sk ws_ship_cdemo_sk",
        "household_demographics": "ws_bill_hdemo_sk ws_ship_hdemo_sk",
        "customer_address": "ws_bill_addr_sk ws_ship_addr_sk",
        "web_page": "ws_web_page_sk",
        "web_site": "ws_web_site_sk",
        "ship_mode": "ws_ship_mode_sk",
        "warehouse": "ws_warehouse_sk",
        "promotion": "ws_promo_sk",
    },
    "web_site": {"date_dim": "web_open_date_sk web_close_date_sk"},
}
"""For each table: the tables that it references, and through which of its columns, one foreign key a column."""

_SALES_OF_RETURNS = (
    ForeignKey(
        "catalog_returns",
        ("cr_item_sk", "cr_order_number"),
        "catalog_sales",
        ("cs_item_sk", "cs_order_number"),
        "benchmark",
    ),
    ForeignKey(
        "store_returns",
        ("sr_item_sk", "sr_ticket_number"),
        "store_sales",
        ("ss_item_sk", "ss_ticket_number"),
        "benchmark",
    ),
    ForeignKey(
        "web_returns", ("wr_item_sk", "wr_order_number"), "web_sales", ("ws_item_sk", "ws_order_number"), "benchmark"
    ),
)

FOREIGN_KEYS: tuple[ForeignKey, ...] = (
    *(
        ForeignKey(table, (column,), referenced, PRIMARY_KEYS[referenced], "benchmark")
        for table, references in _REFERENCES.items()
        for referenced, columns in references.items()
        for column in columns.split()
    ),
    *_SALES_OF_RETURNS,
)
"""Every foreign key of the specification."""


def make_tpcds(scale_factor: float, folder: Path) -> Database:
    """Return the TPC-DS database of a scale factor in a folder, generating it where it is not there yet.

    Raises:
        BenchmarkError: the scale factor is not positive, the generator is not installed, or the disk is full.
    """
    if not 0 < scale_factor <= 100_000:
        raise BenchmarkError(
            f"benchmark.scale_factor={scale_factor:g} makes no TPC-DS data; give a positive number, such as 0.01 or 1"
        )
    path = folder / f"tpcds_sf{scale_factor:g}.duckdb"
    if not path.exists():
        extension = _extension()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # In a folder of its own, then renamed: two processes that start at once both end with a whole file.
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as making:
                made = Path(making) / path.name
                _generate(made, scale_factor, extension)
                made.replace(path)
        except (OSError, duckdb.Error) as error:
            raise BenchmarkError(
                f"TPC-DS data of scale factor {scale_factor:g} could not be made in {str(folder)!r} ({error}); "
                "make room there, or set data_dir to another folder"
            ) from error
    return Database("tpcds", "duckdb", str(path))


def content_identity(scale_factor: float) -> str:
    """Return a text that stands for the generated content; the files of two generations differ in their bytes."""
    return f"tpcds scale_factor={scale_factor:g} duckdb={duckdb.__version__}"


def _extension() -> Path:
    try:
        import duckdb_extension_tpcds  # only the first use needs it
    except ImportError as error:
        raise BenchmarkError(
            f"the TPC-DS generator is not installed; run: pip install duckdb-extension-tpcds=={duckdb.__version__}"
        ) from error
    folder = Path(str(duckdb_extension_tpcds.__file__)).parent / "extensions" / f"v{duckdb.__version__}"
    extension = folder / "tpcds.duckdb_extension"
    if not extension.is_file():
        raise BenchmarkError(
            f"the installed TPC-DS generator is not for DuckDB {duckdb.__version__}; run: pip install "
            f"duckdb-extension-tpcds=={duckdb.__version__}"
        )
    return extension


def _generate(path: Path, scale_factor: float, extension: Path) -> None:
    # One thread, so that rows come in the same order on every machine.
    connection = duckdb.connect(str(path), config={"threads": 1, "autoinstall_known_extensions": False})
    try:
        connection.execute(f"LOAD '{str(extension).replace(chr(39), chr(39) * 2)}'")
        connection.execute(f"CALL dsdgen(sf = {scale_factor!r})")
        connection.execute("CHECKPOINT")
    finally:
        connection.close()
