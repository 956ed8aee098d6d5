"""`halfulp formats`: the numbers that it prints are the formats'."""

from __future__ import annotations

import json

import numpy as np
import pytest

from halfulp.numerics.formats import FORMATS, get_format


def test_table_has_every_format(halfulp):
    outcome = halfulp("formats")
    assert outcome.code == 0
    for name in FORMATS.names():
        assert any(line.split()[:1] == [name] for line in outcome.out.splitlines())
    listed = json.loads(halfulp("formats", "--json").out)
    assert [each["name"] for each in listed] == FORMATS.names()


@pytest.mark.parametrize(
    "name",
    [
        "e4m3",
        "e5m2",
        "e2m1",
        "int4",
        "uint8",
        "float16",
        "e3m4",
        "e4m3-nosub",
        "e5m2-nosub",
        "fixed2.6",
        "ternary",
        "binary",
        "posit8_1",
    ],
)
def test_json_gives_range_and_every_code(halfulp, name):
    told = json.loads(halfulp("formats", name, "--json").out)
    fmt = get_format(name)
    values = np.array([float(value) for value in told["values"]])
    np.testing.assert_array_equal(values, fmt.to_float64(fmt.valid_codes))
    finite = values[np.isfinite(values)]
    assert told["largest"] == finite.max()
    assert told["smallest"] == finite.min()
    assert told["least_positive"] == finite[finite > 0].min()
    assert told["nan"] == bool(np.isnan(values).any())
    assert told["inf"] == bool(np.isinf(values).any())


def test_one_format_shows_its_codes_and_spacing(halfulp):
    out = halfulp("formats", "e2m1").out
    assert "range: -6 to 6; least positive 0.5" in out
    assert ["0x08", "-0", "-0.5", "-1", "-1.5", "-2", "-3", "-4", "-6"] in [line.split() for line in out.splitlines()]
    assert ["4", "6", "2"] in [line.split() for line in out.splitlines()]
    assert "Codes" not in halfulp("formats", "float16").out


def test_plot_is_a_png(halfulp, tmp_path):
    pictures = ["e4m3"], ["int8"], [], ["e4m3", "posit8_1", "binary"], ["e4m3", "--picture", "rounding"]
    for arguments in (*pictures, ["--picture", "words"]):
        target = tmp_path / "spacing.png"
        assert halfulp("formats", *arguments, "--plot", target).code == 0
        assert target.read_bytes().startswith(b"\x89PNG")
        target.unlink()
    assert halfulp("formats", "--plot", tmp_path / "no" / "x.png").error.endswith(f"there is no folder {tmp_path}/no")


def test_several_formats_are_told_one_after_the_other(halfulp):
    out = halfulp("formats", "e2m1", "int4").out
    assert out.index("float4_e2m1fn") < out.index("int4: 4 bits")
    assert [each["name"] for each in json.loads(halfulp("formats", "e2m1", "int4", "--json").out)] == [
        "float4_e2m1fn",
        "int4",
    ]


def test_accumulation_is_not_drawn_for_integers(halfulp, tmp_path):
    outcome = halfulp("formats", "int8", "--plot", tmp_path / "x.png", "--picture", "rounding")
    assert outcome.code == 1
    assert outcome.error == "errors of accumulation are drawn for a float format, not for int8"
    assert not (tmp_path / "x.png").exists()


def test_unknown_format_names_the_nearest(halfulp):
    assert halfulp("formats", "e4m4x").error.startswith("unknown format 'e4m4x'; nearest: 'e4m3' (or any eXmY")
    assert "exponent bits must be 1 to 8" in halfulp("formats", "e9m1").error
