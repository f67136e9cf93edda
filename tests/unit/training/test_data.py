"""Bars are read as they are, or refused naming the column and the date."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from mlops.training.data import close_times, load_bars, parse_bars
from mlops.training.quality import report
from tickserve.errors import DataError

GOOD = """\
Date,Open,High,Low,Close,Adj Close,Volume
2024-07-02,10.0,11.0,9.0,10.5,10.5,1000
2024-07-03,10.5,12.0,10.0,11.5,11.5,500
2024-07-05,11.4,11.5,11.0,11.2,11.2,700
"""


@pytest.mark.parametrize("dataset", ["sp500", "nasdaq"])
def test_bundled_data_is_what_its_package_loads(dataset: str) -> None:
    from importlib import import_module

    theirs = import_module(f"arch.data.{dataset}").load()
    ours = load_bars(dataset)
    assert len(ours) == 5031
    assert (ours.sessions == theirs.index.to_numpy().astype("datetime64[D]")).all()
    for column in ("Open", "High", "Low", "Close", "Volume"):
        np.testing.assert_allclose(getattr(ours, column.lower()), theirs[column], rtol=1e-14)


@pytest.mark.parametrize("name", ["Prices 2024.csv", "prices_2024.csv.gz"])
def test_a_file_gives_the_same_bars_plain_or_gzipped(tmp_path: Path, name: str) -> None:
    data = GOOD.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    bars = load_bars(tmp_path / name)
    assert bars.name == "prices-2024"
    assert bars.close.tolist() == [10.5, 11.5, 11.2]
    assert bars.volume.tolist() == [1000, 500, 700]
    assert bars.sessions[0] == np.datetime64("2024-07-02")


@pytest.mark.parametrize(
    ("old", "new", "column", "said"),
    [
        ("Volume", "Vol", "Volume", "0 columns Volume"),
        ("Adj Close", "Close", "Close", "2 columns Close"),
        ("2024-07-03", "2024-07-02", "Date", "2024-07-02 appears twice"),
        ("2024-07-03", "2024-07-09", "Date", "2024-07-05 comes after 2024-07-09"),
        ("2024-07-03", "2024-07-03T16:00:00Z", "Date", "without time of day or zone"),
        ("2024-07-03", "yesterday", "Date", "'yesterday'"),
        ("10.5,12.0", "-10.5,12.0", "Open", "Open on 2024-07-03: -10.5, expected a price above 0"),
        ("12.0,10.0,11.5", "12.0,0,11.5", "Low", "Low on 2024-07-03: 0"),
        ("12.0,10.0", "9.5,10.0", "High", "High on 2024-07-03: 9.5, expected at least the low"),
        ("10.5,12.0,10.0", "9.9,12.0,10.0", "Open", "Open on 2024-07-03: 9.9"),
        ("11.5,11.5,500", "12.1,11.5,500", "Close", "Close on 2024-07-03: 12.1"),
        (",500", ",-500", "Volume", "Volume on 2024-07-03: -500, expected 0 or more"),
        ("10.5,12.0", "nan,12.0", "Open", "Open on 2024-07-03: 'nan' is no finite number"),
        ("10.5,12.0", ",12.0", "Open", "Open on 2024-07-03: ''"),
        ("10.5,12.0", "inf,12.0", "Open", "Open on 2024-07-03: 'inf'"),
        ("11.5,500", "11.5", "", "line 3 has 6 values, the header has 7"),
        (",500", ",500,1", "", "line 3 has 8 values, the header has 7"),
        ("10.5,12.0", '"10.5,12.0', "", "no CSV"),
    ],
)
def test_bad_data_is_refused_naming_the_place(old: str, new: str, column: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_bars(GOOD.replace(old, new, 1), name="made")
    assert said in caught.value.message
    assert caught.value.field == column


@pytest.mark.parametrize("text", ["", GOOD.splitlines()[0] + "\n"])
def test_data_without_a_session_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        parse_bars(text, name="made")


@pytest.mark.parametrize(
    ("name", "data"),
    [("made.csv.gz", GOOD.encode()), ("made.csv.gz", gzip.compress(GOOD.encode())[:-9]), ("made.csv", b"\xff\xfe\xfd")],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        load_bars(tmp_path / name)


@pytest.mark.parametrize("dataset", ["sp501", "prices.parquet", "absent.csv", "_.csv"])
def test_an_unknown_data_set_is_refused(dataset: str) -> None:
    with pytest.raises(DataError):
        load_bars(dataset)


def test_prices_outside_the_range_by_rounding_are_kept_and_counted() -> None:
    bars = parse_bars(GOOD.replace("11.5,11.5,500", "12.005,11.5,500"), name="made")
    assert report(bars).outside_range == 1


def test_features_are_known_at_four_in_new_york() -> None:
    sessions = np.array(["2024-01-02", "2024-07-02"], "datetime64[D]")
    assert close_times(sessions).tolist() == [
        np.datetime64("2024-01-02T21:00", "ns").item(),
        np.datetime64("2024-07-02T20:00", "ns").item(),
    ]


def test_the_report_finds_missing_and_extra_sessions() -> None:
    found = report(parse_bars(GOOD.replace("2024-07-03", "2024-07-04"), name="made"))
    assert found.missing_sessions == ("2024-07-03",)
    assert found.extra_sessions == ("2024-07-04",)
    assert any("2024-07-03" in sentence for sentence in found.sentences())


def test_the_report_on_bundled_data_says_what_is_odd_about_it() -> None:
    sp500, nasdaq = report(load_bars("sp500")), report(load_bars("nasdaq"))
    for found in (sp500, nasdaq):
        assert found.missing_sessions == found.extra_sessions == ()
        assert found.outside_range == 0
    assert nasdaq.without_volume == ("2015-05-12", "2018-01-09")
    assert nasdaq.last_stale_year is None
    assert sp500.last_stale_year == 2013
    assert 0.39 < sp500.stale_open_share < 0.41
