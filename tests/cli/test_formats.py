"""`halfulp formats`: the numbers that it prints are the formats'."""

from __future__ import annotations

import json

import numpy as np
import pytest

from halfulp.cli import number_plots
from halfulp.numerics.block_formats import BLOCK_FORMATS, Blocks, get_block_format
from halfulp.numerics.formats import FORMATS, get_format


def test_table_has_every_format(halfulp):
    outcome = halfulp("formats")
    assert outcome.code == 0
    every = [*FORMATS.names(), *BLOCK_FORMATS.names()]
    for name in every:
        assert any(line.split()[:1] == [name] for line in outcome.out.splitlines())
    listed = json.loads(halfulp("formats", "--json").out)
    assert [each["name"] for each in listed] == every


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
        "log8",
        "log4_2",
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


def test_plot_is_a_png(halfulp, tmp_path, monkeypatch):
    # Of fewer and shorter sums: all of them take most of ten seconds.
    errors, variance = number_plots.accumulation_errors, number_plots._variance_of_block_sums
    monkeypatch.setattr(number_plots, "accumulation_errors", lambda mode, ks: errors(mode, [min(k, 8) for k in ks]))
    monkeypatch.setattr(number_plots, "_variance_of_block_sums", lambda size: variance(size, samples=20))
    pictures = ["e4m3"], ["int8"], [], ["e4m3", "posit8_1", "binary"], ["e4m3", "--picture", "rounding"]
    for arguments in (*pictures, ["--picture", "words"]):
        target = tmp_path / "spacing.png"
        assert halfulp("formats", *arguments, "--plot", target).code == 0
        assert target.read_bytes().startswith(b"\x89PNG")
        target.unlink()
    assert halfulp("formats", "--plot", tmp_path / "no" / "x.png").error.endswith(f"there is no folder {tmp_path}/no")


def test_a_picture_needs_a_png_file(halfulp, tmp_path):
    error = halfulp("formats", "e4m3", "--plot", tmp_path / "x.svg").error
    assert error == f"{tmp_path}/x.svg: pictures are PNG files, whose names end in .png"
    assert halfulp("formats", "--picture", "words").error == "--picture words is of --plot FILE.png, which is not given"
    assert list(tmp_path.iterdir()) == []


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


def test_a_wrong_name_is_answered_with_plain_and_block_scaled_formats(halfulp):
    assert halfulp("formats", "mxfp4").error.startswith(
        "unknown format 'mxfp4'; nearest: 'fp4', 'mxfp8_e4m3', 'mxfp4_e2m1' (or any eXmY"
    )
    assert halfulp("formats", "mxfp4").error.endswith("any bfpN)")
    assert "3 to 16 bits, not 17" in halfulp("formats", "bfp17").error


@pytest.mark.parametrize("name", [*BLOCK_FORMATS.names(), "bfp7"])
def test_block_formats_tell_the_range_that_their_codes_span(halfulp, name):
    told = json.loads(halfulp("formats", name, "--json").out)
    fmt = get_block_format(name)
    assert (told["element"], told["block"], told["scale"]) == (fmt.element.name, fmt.block, fmt.scale)
    codes = fmt.element.valid_codes[:, None]
    values = [
        fmt.to_float64(Blocks(codes, np.full(codes.shape, scale, np.uint8)))
        for scale in (0, 1, 0x7E if name == "nvfp4" else 254)
    ]
    finite = np.abs(np.concatenate([v[np.isfinite(v)] for v in values]))
    assert told["largest"] == finite.max()
    assert told["least_positive"] == finite[finite > 0].min()


def test_a_block_format_shows_a_block(halfulp):
    out = halfulp("formats", "mxfp4_e2m1").out
    assert "mxfp4_e2m1: blocks of 32 along K; 4.25 bits a number" in out
    assert "scale code 125" in out
    assert ["value", "-1", "-0.75", "-0.5", "-0.25", "0", "0.25", "0.5", "0.75"] in [
        line.split() for line in out.splitlines()
    ]
    assert "tensor scale" in halfulp("formats", "nvfp4").out


def test_block_formats_have_no_picture(halfulp, tmp_path):
    outcome = halfulp("formats", "nvfp4", "--plot", tmp_path / "x.png")
    assert outcome.error == "pictures are of plain formats, not of nvfp4; its elements are float4_e2m1fn"
