"""Which searcher serves, what it takes on a machine, and which would be quicker: figures by hand."""

import dataclasses

import pytest

from ralm_jax.batches import Lengths
from ralm_jax.cost import chips, searching
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.refresh import Asynchronous
from ralm_jax.training import optim
from ralm_jax.training.schedule import Schedule, Stage
from ralm_jax.training.tasks import InverseCloze, Realm

WIKIPEDIA = 13_353_718
SMALL = EncoderConfig(hidden=12)
MODEL = Ralm(SMALL, SMALL, 128)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
REFRESHED = Asynchronous(every=10, lag=5)
REALM = Realm(LENGTHS, candidates=8, refresh=REFRESHED)


def stage(task):
    optimizer = optim.by_part(optim.adamw(1e-3), optim.adamw(1e-3))
    return Stage("one", task, Schedule(steps=10, batch=512, optimizer=optimizer))


def on(name, passages=WIKIPEDIA, **changed):
    asked = searching.search(MODEL, stage(dataclasses.replace(REALM, **changed)), passages)
    return searching.on_chip(asked, chips.chip(name), 0.9)


def test_exact_search_of_wikipedia_by_hand():
    """1.75 TFLOP and 3.42 GB. An H200 of 4.8 TB/s took 357 ms; other GPUs go by their bandwidth."""
    v5e, l4 = on("v5e-8", index="exact"), on("l4", index="exact")
    assert v5e["searcher"] == l4["searcher"] == "exact"
    assert v5e["seconds"]["exact"] == pytest.approx(1.75e12 / 197e12 / 8, rel=0.01)
    assert l4["seconds"]["exact"] == pytest.approx(0.357 * 4.8 / 0.30, rel=0.01)
    assert on("h200", index="exact")["seconds"]["exact"] == pytest.approx(0.357)
    # The version that serves and the next one; whole blocks on each device.
    assert l4["device_bytes"] == pytest.approx(2 * 3.42e9, rel=0.001)
    assert v5e["device_bytes"] == pytest.approx(2 * 3.42e9 / 8, rel=0.002)
    assert (
        on("l4", index="exact", refresh=searching.Frozen())["device_bytes"] * 2
        == l4["device_bytes"]
    )
    assert l4["host_bytes"] == v5e["host_bytes"] == 0


def test_small_tables_are_in_float32():
    assert on("h100", 10_000)["device_bytes"] == 2 * 4 * 128 * 10_000
    assert on("h100", 10_000)["searcher"] == "exact"


def test_scann_takes_the_host_and_more_cores_take_less_time():
    one, two = on("h100"), on("h100", index_threads=2)
    assert (
        one["searcher"] == "scann"
        and one["device_bytes"] == 0
        and one["host_bytes"] > 4 * 128 * WIKIPEDIA
    )
    assert one["seconds"]["scann"] == 2 * two["seconds"]["scann"]
    assert one["seconds"]["exact"] < one["seconds"]["scann"] and one["faster"] == "exact"
    # 512 queries take eight times as long as the 64 that were measured over as many passages.
    assert one["seconds"]["scann"] == pytest.approx(8 * 0.842)
    assert one["host_bytes"] == pytest.approx(12.5 * 2**30)
    # From 500,000 passages on there is a tree, which scores a part of them.
    few, many = (on("h100", n)["seconds"]["scann"] for n in (499_999, 500_001))
    assert few / 10 < many < few / 3


def test_what_does_not_fit_is_not_faster_and_is_refused_where_it_is_wanted(monkeypatch):
    small = chips.CHIPS["l4"]._replace(memory=7e9)
    monkeypatch.setitem(chips.CHIPS, "l4", small)
    found = on("l4")
    assert not found["exact_fits"] and found["faster"] == "scann"
    exact = stage(dataclasses.replace(REALM, index="exact"))
    with pytest.raises(
        UserError, match=r"l4 has 7 GiB a device, .* stage one takes 6.4: set INDEX"
    ):
        searching.searches(MODEL, [exact], WIKIPEDIA, {"l4": small}, 0.9)
    # One of several machines: the others are shown.
    pair = {"l4": small, "h100": chips.chip("h100")}
    found, (line,) = searching.searches(MODEL, [exact], WIKIPEDIA, pair, 0.9)
    assert "search in one: exact" in line and "l4 6.4 GiB, does not fit; h100 6.4 GiB, " in line
    assert [found[name][0]["exact_fits"] for name in pair] == [False, True]


def test_a_stage_that_does_not_search_has_no_line():
    given = [stage(InverseCloze(LENGTHS)), stage(REALM)]
    found, lines = searching.searches(MODEL, given, 1000, {"l4": chips.chip("l4")}, 0.9)
    assert found["l4"][0] is None and found["l4"][1] is not None and len(lines) == 1


def test_what_is_so_on_all_devices_is_said_once():
    every = {name: chips.chip(name) for name in ("h100", "a100", "l4")}
    _, (line,) = searching.searches(MODEL, [stage(REALM)], WIKIPEDIA, every, 0.9)
    assert line.count("faster") == 1 and "faster on all" in line and "6,736 ms a step" in line
