"""Values of options: kept fractions as numbers and percentages, lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavakv import BudgetError, InputError
from lavakv.cli.lists import fraction, fractions, numbers, whole_numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.25", 0.25), ("25%", 0.25), (" 25 % ", 0.25), ("12.5%", 0.125), (".5", 0.5), ("1", 1.0), ("1.", 1.0),
        ("100%", 1.0), ("0.1%", 0.001), ("1e-2", 0.01), ("+0.5", 0.5), (".5%", 0.005),
    ],
)  # fmt: skip
def test_a_fraction_is_a_number_or_a_percentage(text, value) -> None:
    assert fraction("--keep", text) == value


def test_an_option_that_is_not_given_is_none() -> None:
    assert fraction("--keep", None) is None
    assert fractions("--keep", None) == []


def test_a_list_may_mix_both() -> None:
    assert fractions("--keep", "25%,0.125, 6.25 %") == [0.25, 0.125, 0.0625]


@given(st.integers(1, 10_000))
def test_a_percentage_is_the_number_that_its_decimal_is(hundredths) -> None:
    """No rounding on the way: 12.34% is the float that 0.1234 is."""
    assert fraction("--keep", f"{hundredths // 100}.{hundredths % 100:02}%") == float(f"{hundredths / 10_000:.4f}")


@pytest.mark.parametrize(
    "text",
    ["0", "0%", "-1%", "120%", "100.1%", "1.01", "abc", "%", "", " ", "25%%", "%25", "nan", "inf", "1/4", "1e-999"],
)
def test_what_is_no_kept_fraction(text) -> None:
    for parse in (fraction, fractions):
        with pytest.raises(BudgetError) as caught:
            parse("--keep", text)
        assert caught.value.argument == "--keep"
        assert caught.value.got == repr(text.strip())
        assert "25%" in caught.value.fix or "%?" in caught.value.fix


@pytest.mark.parametrize(("text", "fix"), [("25", "Did you mean 25%?"), ("12.5", "Did you mean 12.5%?")])
def test_a_percentage_without_its_sign_is_recognised(text, fix) -> None:
    with pytest.raises(BudgetError) as caught:
        fraction("--keep", text)
    assert caught.value.fix == fix


def test_the_item_that_is_wrong_is_named() -> None:
    with pytest.raises(BudgetError, match="got '120%'"):
        fractions("--keep", "50%,120%,25%")


@pytest.mark.parametrize("parse", [whole_numbers, numbers])
def test_lists_that_are_none_get_an_example(parse) -> None:
    with pytest.raises(InputError) as caught:
        parse("--lengths", "1;2")
    assert "Write for example --lengths " in caught.value.fix
