"""What an archive lists, and how it is fetched in parts."""

from __future__ import annotations

from voxtrial.daemon.network.archives import Listing

CT, MR, PHOTOGRAPH = (f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("2", "4", "77.1.4"))


def test_classes_that_are_not_taken_are_counted_and_left_out() -> None:
    listing = Listing.of([("1", "s", CT), ("2", "s", PHOTOGRAPH), ("3", "t", "")])
    assert listing.series_of == {"1": "s", "3": "t"}
    assert (listing.not_taken, len(listing)) == (1, 3)


def test_parts_hold_at_most_so_many_classes_and_the_unknown_come_alone() -> None:
    listing = Listing.of([("1", "s", CT), ("2", "t", MR), ("3", "t", ""), ("4", "s", CT)])
    parts = [(classes, sorted(part.series_of)) for classes, part in listing.by_classes(1)]
    assert parts == [([], ["3"]), ([CT], ["1", "4"]), ([MR], ["2"])]
    assert [classes for classes, _ in listing.by_classes(7)] == [[], [CT, MR]]
