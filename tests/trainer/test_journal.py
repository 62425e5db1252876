"""Whatever is killed, cut off or answered with an error, and in whatever order: MLflow gets everything once."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest
from atelier_trainer.errors import JournalError, TrackingError
from atelier_trainer.tracking.journal import Journal, _line
from atelier_trainer.tracking.uploader import Uploader, deliver
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


class Server:
    """A mailbox that keeps what comes; told to, it fails before it has taken a request, or after."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int, int]] = []
        self.images: list[str] = []
        self.notes: list[dict] = []
        self.failing: list[str] = []

    def _answer(self, take) -> None:
        fate = self.failing.pop(0) if self.failing else "well"
        if fate == "before":
            raise TrackingError("no answer")
        take()
        if fate == "after":
            raise TrackingError("the answer was lost")

    def metrics(self, rows):
        self._answer(lambda: self.rows.extend(rows))

    def history(self, name):
        self._answer(lambda: None)
        return {row[2:] for row in self.rows if row[0] == name}

    def image(self, record, file):
        assert Path(file).exists()
        name = f"{record['key']} {record['step']} {record['at_ms']}"
        self._answer(lambda: self.images.append(name) if name not in self.images else None)

    def note(self, record):
        self._answer(lambda: self.notes.append(record))


def drain(journal: Journal, server: Server, cautious: bool = True) -> None:
    while journal.pending:
        try:
            while deliver(journal, server, cautious):
                pass
        except TrackingError:
            cautious = True


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("log"), st.integers(1, 12)),
        st.tuples(st.just("image"), st.integers(1, 12)),
        st.tuples(st.just("deliver"), st.lists(st.sampled_from(["before", "after", "well"]), max_size=4)),
        st.tuples(st.just("kill"), st.integers(0, 40)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS)
def test_any_interleaving_of_logging_failing_killing_and_replaying(tmp_path_factory, events):
    """`kill` cuts what was being written; the run then logs again from an earlier step, as one from a checkpoint does."""
    folder, server = tmp_path_factory.mktemp("journal"), Server()
    journal, logged, drawn, cautious = Journal(folder), {}, set(), True
    image = Image.new("RGB", (2, 2))
    for kind, value in events:
        if kind == "log":
            journal.metrics(value, {"loss": value / 8, "ema": value / 4})
            logged.setdefault(value, (value / 8, value / 4))
        elif kind == "image":
            journal.image(image, "validation_0", value)
            drawn.add(value)
        elif kind == "deliver":
            server.failing = list(value)
            try:
                deliver(journal, server, cautious)
                cautious = False
            except TrackingError:
                cautious = True
            server.failing = []
        else:
            journal.close()
            if kind == "kill":
                with (folder / "journal.jsonl").open("ab") as stream:
                    stream.write(b'0badc0de {"kind":"metrics","rows":[["loss",9,9,9]]}'[:value])
            journal, cautious = Journal(folder), True
    drain(journal, server)
    assert sorted((name, step, value) for name, value, step, _ in server.rows) == sorted(
        (name, step, value) for step, values in logged.items() for name, value in zip(("loss", "ema"), values, strict=True)
    )
    assert sorted(int(name.split()[1]) for name in server.images) == sorted(drawn)
    assert not journal.pending
    journal.close()


def test_records_arrive_in_the_order_they_were_written(tmp_path):
    journal, server = Journal(tmp_path), Server()
    for step in range(1, 1001):
        journal.metrics(step, {"loss": float(step)})
    drain(journal, server)
    assert [row[2] for row in server.rows] == list(range(1, 1001))


def test_a_damaged_line_in_the_middle_costs_that_line_only(tmp_path, caplog):
    journal = Journal(tmp_path)
    for step in (1, 2, 3):
        journal.metrics(step, {"loss": 1.0})
    journal.close()
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"loss", b"lose")
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines))
    again, server = Journal(tmp_path), Server()
    drain(again, server)
    assert [row[2] for row in server.rows] == [1, 3]
    assert "a damaged line is left out" in caplog.text


def test_the_courier_delivers_all_while_nobody_waits(tmp_path):
    journal, server = Journal(tmp_path), Server()
    server.failing = ["before"]
    courier = Uploader(journal, server)
    for step in range(1, 50):
        journal.metrics(step, {"loss": random.Random(step).random()})
    assert courier.finish(patience_s=60)
    assert sorted(row[2] for row in server.rows) == list(range(1, 50))


def test_the_courier_gives_up_when_its_patience_ends_and_keeps_everything(tmp_path):
    journal, server = Journal(tmp_path), Server()
    server.failing = ["before"] * 10_000
    courier = Uploader(journal, server)
    journal.metrics(1, {"loss": 1.0})
    assert not courier.finish(patience_s=0)
    assert journal.pending
    server.failing = []
    drain(journal, server)
    assert server.rows[0][:3] == ("loss", 1.0, 1)


def test_an_unexpected_error_is_not_swallowed(tmp_path):
    class Broken(Server):
        def metrics(self, rows):
            raise ZeroDivisionError

    journal = Journal(tmp_path)
    journal.metrics(1, {"loss": 1.0})
    with pytest.raises(ZeroDivisionError):
        deliver(journal, Broken(), cautious=False)
    assert journal.pending


RECORDS = st.recursive(
    st.none() | st.integers() | st.text(max_size=6) | st.sampled_from(["metrics", "image", "status"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "rows", "key", "step", "x"]), inner),
    max_leaves=6,
)
LINES = st.binary(max_size=30) | RECORDS.map(_line) | st.just(b"%08x %s\n" % (zlib.crc32(b"[" * 9999), b"[" * 9999))


@settings(deadline=None, max_examples=80)
@given(
    content=st.lists(LINES, max_size=5).map(b"".join),
    mark=st.none() | st.binary(max_size=6) | st.integers().map(lambda n: b"%d" % n),
)
def test_any_files_of_a_journal(tmp_path_factory, content, mark):
    """Damaged lines are left out, and nothing that was written whole after them is lost."""
    folder = tmp_path_factory.mktemp("journal")
    (folder / "journal.jsonl").write_bytes(content)
    if mark is not None:
        (folder / "delivered").write_bytes(mark)
    try:
        journal = Journal(folder)
    except JournalError as error:
        assert "delivered" in str(error)
        return
    journal.append({"kind": "status", "status": "RUNNING"})
    records, end = journal.next(100)
    journal.delivered(end)
    journal.close()
    assert not journal.pending
    assert records[-1] == {"kind": "status", "status": "RUNNING"}
    assert {path.name for path in folder.iterdir()} == {"journal.jsonl", "delivered", "images"}


def test_a_mark_beyond_a_journal_that_lost_its_end(tmp_path):
    """What is written after a loss of power is sent, though MLflow once had more than there is now."""
    (tmp_path / "delivered").write_text("9000")
    journal = Journal(tmp_path)
    journal.metrics(1, {"loss": 0.5})
    assert journal.pending
    assert [record["kind"] for record in journal.next(9)[0]] == ["metrics"]
    journal.close()
