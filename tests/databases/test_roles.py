"""What an analyst would do with each column: a table of expectations, on TPC-DS, on Spider and on made-up columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.profile import profile_column
from rayfactory.databases.roles import Facts, role_of, words_of
from rayfactory.databases.schema import ColumnProfile, Kind, Role, Schema

TPCDS: dict[Role, str] = {
    "key": (
        "store_sales.ss_item_sk store_sales.ss_ticket_number store_sales.ss_sold_date_sk web_sales.ws_order_number "
        "catalog_returns.cr_order_number date_dim.d_date_sk inventory.inv_warehouse_sk customer.c_current_addr_sk "
        "date_dim.d_first_dom date_dim.d_same_day_ly "
        "customer.c_last_review_date_sk web_site.web_site_sk"
    ),
    "identifier": (
        "item.i_item_id customer.c_customer_id date_dim.d_date_id time_dim.t_time_id customer.c_email_address "
        "promotion.p_promo_id store.s_store_id web_page.wp_url catalog_page.cp_catalog_page_id"
    ),
    "measure": (
        "store_sales.ss_quantity store_sales.ss_sales_price store_sales.ss_ext_tax store_sales.ss_net_profit "
        "store_sales.ss_wholesale_cost store_sales.ss_coupon_amt store_sales.ss_net_paid_inc_tax web_sales.ws_ext_ship_cost "
        "catalog_returns.cr_fee store_returns.sr_refunded_cash web_returns.wr_reversed_charge catalog_returns.cr_store_credit "
        "item.i_current_price item.i_wholesale_cost warehouse.w_warehouse_sq_ft store.s_number_employees store.s_floor_space "
        "store.s_tax_percentage call_center.cc_employees call_center.cc_sq_ft inventory.inv_quantity_on_hand "
        "customer_demographics.cd_purchase_estimate customer_demographics.cd_dep_count household_demographics.hd_dep_count "
        "household_demographics.hd_vehicle_count promotion.p_cost "
        "web_page.wp_char_count web_page.wp_max_ad_count"
    ),
    "code": (
        "date_dim.d_year date_dim.d_moy date_dim.d_dom date_dim.d_dow date_dim.d_qoy date_dim.d_month_seq date_dim.d_week_seq "
        "date_dim.d_fy_year time_dim.t_hour time_dim.t_minute time_dim.t_time "
        "item.i_manufact_id item.i_brand_id item.i_class_id item.i_category_id item.i_manager_id store.s_market_id "
        "call_center.cc_division call_center.cc_company call_center.cc_mkt_id customer_address.ca_gmt_offset "
        "customer_address.ca_zip customer.c_birth_year customer.c_birth_day customer.c_birth_month "
        "catalog_page.cp_catalog_number catalog_page.cp_catalog_page_number income_band.ib_lower_bound "
        "income_band.ib_upper_bound"
    ),
    "category": (
        "item.i_category item.i_color item.i_class item.i_brand item.i_size item.i_units customer_demographics.cd_gender "
        "customer_demographics.cd_marital_status customer_demographics.cd_education_status customer_address.ca_state "
        "customer_demographics.cd_credit_rating store.s_state date_dim.d_day_name date_dim.d_weekend date_dim.d_holiday "
        "date_dim.d_quarter_name "
        "time_dim.t_am_pm time_dim.t_shift time_dim.t_meal_time customer.c_salutation customer.c_preferred_cust_flag "
        "customer.c_birth_country household_demographics.hd_buy_potential ship_mode.sm_type ship_mode.sm_code "
        "customer_address.ca_location_type promotion.p_channel_email web_page.wp_type catalog_page.cp_type"
    ),
    "date": "date_dim.d_date item.i_rec_start_date web_page.wp_rec_start_date store.s_rec_start_date",
    "text": (
        "item.i_item_desc item.i_product_name customer.c_first_name customer.c_last_name customer_address.ca_street_name "
        "customer_address.ca_street_number customer_address.ca_suite_number store.s_store_name store.s_manager "
        "warehouse.w_warehouse_name reason.r_reason_desc catalog_page.cp_description call_center.cc_hours "
        "promotion.p_promo_name ship_mode.sm_carrier item.i_manufact"
    ),
    "opaque": "call_center.cc_rec_end_date store.s_rec_end_date ship_mode.sm_contract item.i_formulation",
}

SPIDER: dict[Role, str] = {
    "key": (
        "concert_singer.singer.Singer_ID world_1.city.ID world_1.city.CountryCode world_1.country.Code pets_1.Student.StuID "
        "flight_1.flight.aid employee_hire_evaluation.hiring.Employee_ID tvshow.Cartoon.Channel "
        "customers_card_transactions.Accounts.customer_id"
    ),
    "identifier": (
        "student_transcripts_tracking.Students.cell_mobile_number "
        "student_transcripts_tracking.Students.email_address student_transcripts_tracking.Students.ssn "
        "customers_card_transactions.Customers_Cards.card_number twitter_1.user_profiles.email college_3.Faculty.Phone "
        "tracking_orders.Shipments.shipment_tracking_number railway.train.Train_Num"
    ),
    "measure": (
        "concert_singer.stadium.Capacity concert_singer.stadium.Average concert_singer.singer.Age world_1.city.Population "
        "world_1.country.SurfaceArea world_1.country.GNP world_1.country.LifeExpectancy world_1.countrylanguage.Percentage "
        "pets_1.Pets.weight pets_1.Pets.pet_age flight_1.flight.distance flight_1.employee.salary singer.song.Sales "
        "customers_card_transactions.Financial_Transactions.transaction_amount race_track.track.Seating "
        "employee_hire_evaluation.evaluation.Bonus orchestra.show.Attendance poker_player.poker_player.Earnings "
        "scientist_1.Projects.Hours insurance_policies.Claims.Amount_Claimed museum_visit.visit.Total_spent "
        "inn_1.Rooms.basePrice inn_1.Rooms.maxOccupancy school_bus.school_bus.Years_Working battle_death.death.killed"
    ),
    "code": (
        "world_1.country.IndepYear race_track.track.Year_Opened singer.singer.Birth_Year architecture.mill.built_year "
        "pets_1.Student.Advisor pets_1.Student.Major orchestra.orchestra.Year_of_Founded university_basketball.university.Founded "
        "course_teach.course_arrange.Grade tvshow.TV_series.Weekly_Rank behavior_monitoring.Addresses.zip_postcode "
        "department_management.department.Ranking wrestler.Elimination.Time"
    ),
    "category": (
        "concert_singer.singer.Country world_1.country.Continent world_1.country.Region world_1.country.GovernmentForm "
        "world_1.countrylanguage.IsOfficial pets_1.Pets.PetType pets_1.Student.Sex pets_1.Student.city_code "
        "tracking_orders.Orders.order_status e_government.Forms.form_type_code soccer_2.Tryout.decision "
        "insurance_policies.Payments.Payment_Method_Code employee_hire_evaluation.hiring.Is_full_time inn_1.Rooms.bedType"
    ),
    "date": (
        "insurance_policies.Claims.Date_Claim_Made student_transcripts_tracking.Students.date_first_registered "
        "entrepreneur.people.Date_of_Birth tracking_orders.Invoices.invoice_date twitter_1.tweets.createdate"
    ),
    "text": (
        "concert_singer.singer.Name world_1.city.Name world_1.country.HeadOfState museum_visit.museum.Name tvshow.Cartoon.Title "
        "pets_1.Student.LName student_transcripts_tracking.Courses.course_description twitter_1.tweets.text "
        "orchestra.conductor.Name race_track.race.Date wrestler.wrestler.Name inn_1.Rooms.roomName"
    ),
    "opaque": (
        "student_transcripts_tracking.Courses.other_details tracking_orders.Orders.order_details "
        "document_management.Users.password"
    ),
}


def check(schemas: Mapping[str, Schema], expected: Mapping[Role, str]) -> None:
    wrong = {}
    for role, names in expected.items():
        for name in names.split():
            database, table, column = name.split(".") if name.count(".") == 2 else ("tpcds", *name.split("."))
            found = schemas[database].table(table).column(column).role
            if found != role:
                wrong[name] = f"{found}, not {role}"
    assert wrong == {}


def schemas_of(settings: BenchmarkConfig, data_dir: Path) -> dict[str, Schema]:
    benchmark = open_benchmark(settings, data_dir)
    return {schema.database: schema for schema in load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), data_dir)}


def test_roles_on_tpcds(tpcds_schema: Schema):
    """Money and counts are measures; keys, years, hours and zip codes are not."""
    check({"tpcds": tpcds_schema}, TPCDS)


@pytest.mark.realdata
def test_roles_on_spider(shared_data: Path, tmp_path: Path):
    """The same on databases whose columns say less and hold anything."""
    check(schemas_of(BenchmarkConfig(name="spider", root=str(shared_data / "spider")), tmp_path), SPIDER)


def facts(
    name: str, values: Sequence[object], *, in_key: bool = False, declared: str = "", siblings: Sequence[str] = ()
) -> Facts:
    kind: Kind = (
        "text"
        if any(isinstance(v, str) for v in values)
        else "real"
        if any(isinstance(v, float) for v in values)
        else "integer"
    )
    return Facts(name, declared, kind, profile_column(values, kind), in_key, siblings)


@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("CustomerID", range(1, 50), "key"),
        ("userid", [1, 2, 2, 3], "code"),
        ("paid", [10, 25, 25, 80], "measure"),
        ("latitude", [48.1, 48.2, 50.0], "code"),
        ("Lng", [11.5, 12.5, 13.5], "code"),
        ("founded", [1900, 1950, 1950], "code"),
        ("anything", [1900, 1950, 1950], "code"),
        ("price", [1900, 1950, 1950], "measure"),
        ("years_of_service", [1, 5, 9], "measure"),
        ("number_of_rooms", [1, 2, 2], "measure"),
        ("NumRooms", [1, 2, 2], "measure"),
        ("room_number", [101, 102, 103], "identifier"),
        ("phone", ["1", "2", "3"], "identifier"),
        ("phone_count", [1, 2, 3], "measure"),
        ("lap_time", [61.5, 62.5, 63.0], "measure"),
        ("is_active", [0, 1, 1], "category"),
        ("flag", ["Y", "N", "Y", "N"], "category"),
        ("priority", [1, 2, 3, 3], "code"),
        ("age", ["21", "22", "23"], "code"),
        ("notes", [f"note {n}" for n in range(30)], "text"),
        ("status", ["open", "closed"] * 20, "category"),
        ("zip", ["10115", "10117"], "code"),
        ("episode_nr", [3, 7, 9], "code"),
        ("md5sum", ["0a", "0b", "0c"], "identifier"),
        ("phonetic_code", [f"N{n}" for n in range(30)], "identifier"),
        ("kind", ["movie", "episode"], "category"),
        ("upper_bound", [10, 20, 30], "code"),
        ("user_password", ["hunter2", "letmein", "qwerty"], "opaque"),
        ("ApiKey", ["k1", "k2", "k3"], "opaque"),
        ("salt", [1.5, 2.5, 3.5], "measure"),
        ("contract", ["2mM8l", "5FKNB0j8aaqTB", "uCelXtjP9", "6Hzzp4JkzjqD8M"], "opaque"),
        ("aircraft", ["Boeing747", "AirbusA320", "DC10", "MD80"], "text"),
        ("company", ["McDonald", "YouTube", "LinkedIn", "PlayStation"], "text"),
        ("blank", [None, None], "opaque"),
        ("blank", ["", ""], "opaque"),
    ],
)
def test_roles_of_single_columns(name: str, values: Sequence[object], role: Role):
    """Names in every spelling, and content where the name says nothing."""
    assert role_of(facts(name, list(values))) == role


def test_a_number_that_another_column_spells_out_is_a_code():
    """`division` beside `division_name` is no quantity."""
    assert role_of(facts("division", [1, 2, 6], siblings=("division", "division_name"))) == "code"
    assert role_of(facts("division_x", [1, 2, 6], siblings=("division", "division_name"))) != "text"


def test_words_of_names():
    """Snake case, camel case, capitals, digits and other scripts come apart."""
    assert words_of("ss_soldDate_SK") == ("ss", "sold", "date", "sk")
    assert words_of("HTTPServerID2") == ("http", "server", "id", "2")
    assert words_of("größe 数据") != ()
    assert words_of("") == ()


numbers = st.lists(st.one_of(st.none(), st.integers(-5, 3000), st.floats(allow_nan=False)), max_size=20)
texts = st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=20)


@given(name=st.text(max_size=20), values=st.one_of(numbers, texts), in_key=st.booleans(), declared=st.text(max_size=10))
def test_a_key_is_never_a_measure_and_text_neither(name: str, values: list[object], in_key: bool, declared: str):
    """Whatever the name says: only numbers outside of keys are summed, and any column has a role."""
    described = facts(name, values, in_key=in_key, declared=declared)
    role = role_of(described)
    if in_key:
        assert role in {"key", "opaque"}
    if described.kind == "text":
        assert role in {"key", "identifier", "category", "code", "text", "opaque"}


def test_a_column_without_rows_has_a_role():
    """Of an empty table only the names are known."""
    assert role_of(Facts("price", "REAL", "real", ColumnProfile(0, 0.0, 0))) == "measure"
    assert role_of(Facts("data", "BLOB", "other", ColumnProfile(0, 0.0, 0))) == "opaque"
    assert role_of(Facts("day", "DATE", "date", ColumnProfile(0, 0.0, 0))) == "date"
