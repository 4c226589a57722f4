"""What a chart gathers: events, pairs, windows, lifelines, repeats."""

from __future__ import annotations

import json
from collections import Counter

from chart_rig import call, reply, trips
from decode_rig import envelope, record
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.chart import MAX_NODES, OTHERS, ChartOptions, arranged, collect
from pvnet.capture.chart_detail import BLOCK, MAX_BYTES, Details
from pvnet.capture.chart_fold import MAX_PERIOD, MIN_COUNT, MIN_SAVED, Fold, find_folds
from pvnet.capture.chart_series import MAX_CALLS, Bins, LatencySeries, Series, percentile
from pvnet.capture.chart_series import OTHERS as OTHER_CALLS
from pvnet.capture.chart_text import attribute, channel_of, columns, counted, fit, shape, short
from pvnet.capture.decode import decode
from pvnet.capture.filter import Filter
from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_HCALL, Record
from pvnet.capture.pairs import Pairs


def mark(text: str, number: int = 1, time_ns: int | None = 0) -> Record:
    return record(json.dumps({"mark": text}).encode(), LINKTYPE_HCALL, name="x/hcall", number=number, time_ns=time_ns)


def test_a_reply_knows_its_call_and_how_long_it_took() -> None:
    chart = collect([call(1, 5000, 7), reply(2, 5310, 7, -4), call(3, 6000, 8)])
    first, second, third = chart.events
    assert (second.asked, second.asked_number, second.latency_ns, second.is_reply) == (first, 1, 310, True)
    assert (first.time_ns, second.time_ns, third.time_ns) == (0, 310, 1000)
    assert (first.call, second.call, second.error) == ("H_VIO_SIGNAL", "H_VIO_SIGNAL", "H_PARAMETER")
    assert (first.is_open, third.is_open) == (False, True)
    assert chart.nodes == ["lpar1", "hv"]
    assert (chart.total, chart.violations, chart.span_ns) == (3, 0, 1000)


def test_a_window_leaves_out_and_still_pairs() -> None:
    records = trips(5)
    chart = collect(records, ChartOptions(start_s=1.3e-6, end_s=2e-6))
    assert [event.number for event in chart.events] == [4, 5]
    assert (chart.events[0].asked, chart.events[0].asked_number, chart.events[0].latency_ns) == (None, 3, 300)
    assert sum(chart.density.totals()) == 10


def test_a_filter_and_nodes() -> None:
    records = [call(1, 0, 1), call(2, 10, 1, "lpar2"), reply(3, 20, 1), mark("here", 4, 30)]
    assert [e.number for e in collect(records, ChartOptions(Filter.parse("node == lpar2"))).events] == [2]
    one = collect(records, ChartOptions(nodes=("lpar1",)))
    assert [event.number for event in one.events] == [1, 3, 4]
    assert one.nodes == ["lpar1", "hv"]
    assert [e.number for e in collect(records, ChartOptions(nodes=("lpar2", "lpar1"))).events] == [4]
    two = collect(records, ChartOptions(nodes=("hv", "lpar2")))
    assert (two.nodes, [event.number for event in two.events]) == (["hv", "lpar2"], [2, 4])


def test_a_message_seen_at_both_ends_is_one_event() -> None:
    made = envelope("lpar1", "hv", stream=1, seq=1, correlation=3)
    made.hcall.opcode = 0x104
    data = made.SerializeToString()
    twice = [record(data, name=name, number=i + 1, time_ns=i) for i, name in enumerate(("lpar1/call", "hv/call"))]
    assert collect(twice).total == 1
    again = collect([twice[0], twice[0]])
    assert (again.total, again.violations) == (2, 1)  # the same end saw it twice: that is wrong, and shown


def test_marks_frames_and_damage_have_a_place() -> None:
    frame = record(bytes(60), LINKTYPE_ETHERNET, name="bridge/net0", number=2, time_ns=10)
    damaged = record(b"\xff\xff\xff", name="hv/call", number=3, time_ns=None)
    chart = collect([mark("insmod", 1), frame, damaged])
    places = [(event.source, event.target, event.is_local) for event in chart.events]
    assert places == [("", "", True), ("bridge", "", True), ("hv", "", True)]
    assert chart.events[2].time_ns == 10
    assert chart.events[2].wrong == ("not a pvnet.v1.Envelope",)
    assert chart.nodes == ["bridge", "hv"]


def test_many_nodes_share_a_lifeline() -> None:
    busy = trips(50)
    crowd = [call(200 + i, 10**6 + i, 1, f"node{i}") for i in range(5000)]
    chart = collect(busy + crowd)
    assert len(chart.nodes) == MAX_NODES
    assert chart.nodes[-1] == OTHERS
    assert {"lpar1", "hv"} < set(chart.nodes)
    assert {event.source for event in chart.events} | {event.target for event in chart.events} <= set(chart.nodes)
    assert "share the lifeline" in chart.notes[0]


def test_messages_beyond_the_limit_are_counted() -> None:
    chart = collect(trips(50), ChartOptions(keep=10))
    assert (len(chart.events), chart.total) == (10, 100)
    assert "only the first 10 of 100" in chart.notes[0]


def test_those_who_talk_stand_side_by_side() -> None:
    records = [call(1, 0, 1, "c"), *(call(2 + i, i, i, "a") for i in range(9)), call(20, 20, 1, "b")]
    chart = collect(records)
    assert abs(chart.nodes.index("a") - chart.nodes.index("hv")) == 1
    assert sorted(chart.nodes) == ["a", "b", "c", "hv"]
    assert arranged([], []) == []


def test_repeats_are_found_whatever_the_order_within() -> None:
    assert find_folds(["a", "b"] * 21) == [Fold(0, 2, 21)]
    assert find_folds(["x", "a", "b", "b", "a", "a", "b", "y"]) == [Fold(1, 2, 3)]
    assert find_folds(["a"] * 4) == []
    assert find_folds([]) == []
    assert find_folds(list("abc") * 2) == []
    # a stretch begins at a call where it can
    assert find_folds(list("rcrcrcrcr"), no_start=[c == "r" for c in "rcrcrcrcr"]) == [Fold(1, 2, 4)]
    assert find_folds(["r", "s"] * 5, no_start=[True] * 10) == [Fold(0, 2, 5)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(0, 70))
def test_every_repeat_repeats(text: list[str], doubled: int) -> None:
    text += text[:doubled] * 3
    folds = find_folds(text, no_start=[each == "b" for each in text])
    end = 0
    for fold in folds:
        assert fold.start >= end
        end = fold.end
        assert end <= len(text)
        assert fold.count >= MIN_COUNT
        assert fold.period <= MAX_PERIOD
        assert (fold.count - 1) * fold.period >= MIN_SAVED or fold.count >= MIN_COUNT
        parts = [Counter(text[at : at + fold.period]) for at in range(fold.start, end, fold.period)]
        assert all(part == parts[0] for part in parts)


def test_what_is_wrong_is_no_repeat_of_what_is_right() -> None:
    records = trips(30)
    made = envelope("lpar1", "hv", correlation=16)
    made.schema = 9
    made.hcall.opcode = 0x104
    made.hcall.args.extend([1, 2, 3])
    records[30] = record(made.SerializeToString(), time_ns=15000, number=31, name="lpar1/call")
    chart = collect(records)
    assert [(fold.start, fold.count) for fold in chart.folds] == [(0, 15), (32, 14)]
    assert collect(records, ChartOptions(fold=False)).folds == []


def test_details_are_packed_in_blocks_within_a_budget() -> None:
    details = Details(budget=200)
    decoded = decode(record(b"\x08\x01" + bytes(5000), LINKTYPE_ETHERNET, name="b/net"))
    for _ in range(BLOCK * 3 + 1):
        details.add(decoded)
    details.finish()
    details.finish()
    assert len(details.blocks) == 4
    assert details.left_out == BLOCK * 2 + 1
    assert details.packed == sum(map(len, details.blocks))
    import zlib

    rows = json.loads(zlib.decompress(details.blocks[0]))
    assert len(rows) == BLOCK
    assert rows[0][1] == (b"\x08\x01" + bytes(MAX_BYTES - 2)).hex()
    assert json.loads(zlib.decompress(details.blocks[3])) == [None]


def test_text_of_labels() -> None:
    assert fit("abcdef", 6) == "abcdef"
    assert fit("abcdef", 4) == "abc…"
    assert fit("abc", 0) == ""
    assert columns("日本") == 4
    assert fit("日本語", 5) == "日本…"
    assert shape("slot 12 at 0x1f of x1") == "slot N at N of x1"
    assert counted(1, "node") == "1 node"
    assert attribute('a"<\x00') == "'a\"&lt;\\x00'"
    assert [channel_of(k) for k in ("hcall_reply", "irq", "ethernet", "app", "lifecycle", "link_ack", "x")] == [
        "hcall", "crq", "net", "device", "mgmt", "other", "other",
    ]  # fmt: skip
    made = envelope(correlation=1)
    made.hcall.opcode = 0x108
    made.hcall.args.extend([0x30000000, 0xC001000000000000, 0])
    text = short(decode(record(made.SerializeToString())))
    assert text.startswith("H_SEND_CRQ CRQ INIT")
    assert "unit=" not in text


def test_bins_get_wider_and_lose_nothing() -> None:
    bins = Bins(10)
    for i in range(1000):
        bins.add("ab"[i % 2], i * 10_000, 3)
    assert bins.length <= 10
    assert sum(bins.totals()) == 1000
    width_s = bins.width_ns / 1e9
    assert round(sum(bins.rate("a", 0)) * width_s) == 500
    assert round(sum(bins.rate("b", 1)) * width_s) == 1500
    assert bins.rate("c", 0) == [0.0] * bins.length
    bins.add("a", 1 << 70, 1)
    bins.add("a", -5, 1)
    assert bins.length <= 10
    assert sum(bins.totals()) == 1002


def test_latencies_are_thinned_and_counted() -> None:
    series = LatencySeries(100)
    for i in range(1000):
        series.add("one" if i % 10 else "two", i * 1000, i + 1)
    for i in range(2 * MAX_CALLS):
        series.add(f"call {i}", 0, -1)
    assert series.all.count == 1000 + 2 * MAX_CALLS
    assert sum(len(call_.points) for call_ in series.calls.values()) <= 100
    assert len(series.calls) == MAX_CALLS + 1
    assert OTHER_CALLS in series.calls
    assert abs(series.calls["one"].total.percentile(50) - 500) < 15
    windows = series.over_time(4)
    assert 1 < len(windows) <= 5
    assert all(row[50] <= row[90] <= row[99] for _at, row in windows)
    assert LatencySeries().over_time() == []
    assert [percentile([5, 1, 9, 3], percent) for percent in (0, 25, 50, 99, 100)] == [1, 1, 3, 9, 9]


def test_series_of_a_capture() -> None:
    series, pairs = Series(), Pairs()
    took = {"hcall": "H_VIO_SIGNAL", "args": ["0x1", "0x1"], "rc": 0, "t": 0.5, "t_ret": 0.5001, "n": 1}
    extra = record(json.dumps(took).encode(), LINKTYPE_HCALL, name="x/hcall", number=90, time_ns=500)
    for each in [*trips(3), extra, mark("no time", 91, None)]:
        decoded = decode(each)
        series.feed(decoded, pairs.feed(decoded))
    assert series.messages == 7
    assert series.latency.calls["H_VIO_SIGNAL"].points == [(300, 300), (1300, 300), (2300, 300)]
    assert set(series.throughput.rows) == {"hcall"}
