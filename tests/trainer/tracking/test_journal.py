"""Whatever is killed, cut off or answered with an error, and in whatever order: MLflow gets every record once."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import pytest
from atelier_trainer.errors import JournalError, TrackingError
from atelier_trainer.tracking.journal import Journal, _encode
from atelier_trainer.tracking.uploader import Uploader, deliver
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


class FakeBackend:
    """Keeps what it gets; `failures` says of each request whether it fails before it was handled, or after."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int, int]] = []
        self.images: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.failures: list[str] = []

    def _handle(self, request: Any) -> None:
        failure = self.failures.pop(0) if self.failures else "none"
        if failure == "before":
            raise TrackingError("no answer")
        request()
        if failure == "after":
            raise TrackingError("the answer was lost")

    def log_metrics(self, rows: Any) -> None:
        self._handle(lambda: self.rows.extend(rows))

    def metric_history(self, name: Any) -> Any:
        self._handle(lambda: None)
        return {row[2:] for row in self.rows if row[0] == name}

    def log_image(self, record: Any, file: Any) -> None:
        assert Path(file).exists()
        name = f"{record['key']} {record['step']} {record['at_ms']}"
        self._handle(lambda: self.images.append(name) if name not in self.images else None)

    def log_record(self, record: Any) -> None:
        self._handle(lambda: self.records.append(record))


def deliver_all(journal: Journal, backend: FakeBackend, check_existing: bool = True) -> None:
    while journal.pending:
        try:
            while deliver(journal, backend, check_existing):
                pass
        except TrackingError:
            check_existing = True


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("log"), st.integers(1, 12)),
        st.tuples(st.just("image"), st.integers(1, 12)),
        st.tuples(st.just("deliver"), st.lists(st.sampled_from(["before", "after", "none"]), max_size=4)),
        st.tuples(st.just("kill"), st.integers(0, 40)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS)
def test_every_record_arrives_once_whatever_is_logged_fails_or_is_killed(
    tmp_path_factory: pytest.TempPathFactory, events: Any
) -> None:
    """`kill` cuts what was being written; the run then logs again from an earlier step, as a resumed one does."""
    folder, backend = tmp_path_factory.mktemp("journal"), FakeBackend()
    journal, check_existing = Journal(folder), True
    logged: dict[Any, Any] = {}
    images: set[Any] = set()
    image = Image.new("RGB", (2, 2))
    for kind, value in events:
        if kind == "log":
            journal.add_metrics(value, {"loss": value / 8, "ema": value / 4})
            logged.setdefault(value, (value / 8, value / 4))
        elif kind == "image":
            journal.add_image(image, "validation_0", value)
            images.add(value)
        elif kind == "deliver":
            backend.failures = list(value)
            try:
                deliver(journal, backend, check_existing)
                check_existing = False
            except TrackingError:
                check_existing = True
            backend.failures = []
        else:
            journal.close()
            if kind == "kill":
                with (folder / "journal.jsonl").open("ab") as stream:
                    stream.write(b'0badc0de {"kind":"metrics","rows":[["loss",9,9,9]]}'[:value])
            journal, check_existing = Journal(folder), True
    deliver_all(journal, backend)
    assert sorted((name, step, value) for name, value, step, _ in backend.rows) == sorted(
        (name, step, value) for step, values in logged.items() for name, value in zip(("loss", "ema"), values, strict=True)
    )
    assert sorted(int(name.split()[1]) for name in backend.images) == sorted(images)
    assert not journal.pending
    journal.close()


def test_records_arrive_in_the_order_they_were_written(tmp_path: Path) -> None:
    journal, backend = Journal(tmp_path), FakeBackend()
    for step in range(1, 1001):
        journal.add_metrics(step, {"loss": float(step)})
    deliver_all(journal, backend)
    assert [row[2] for row in backend.rows] == list(range(1, 1001))


def test_a_damaged_line_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path)
    for step in (1, 2, 3):
        journal.add_metrics(step, {"loss": 1.0})
    journal.close()
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"loss", b"lose")
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines))
    reopened, backend = Journal(tmp_path), FakeBackend()
    deliver_all(reopened, backend)
    assert [row[2] for row in backend.rows] == [1, 3]
    assert "damaged line skipped" in caplog.text


def test_the_uploader_retries_until_everything_is_delivered(tmp_path: Path) -> None:
    journal, backend = Journal(tmp_path), FakeBackend()
    backend.failures = ["before"]
    uploader = Uploader(journal, backend)
    for step in range(1, 50):
        journal.add_metrics(step, {"loss": random.Random(step).random()})
    assert uploader.stop(timeout_s=60)
    assert sorted(row[2] for row in backend.rows) == list(range(1, 50))


def test_the_uploader_gives_up_at_the_timeout_and_loses_nothing(tmp_path: Path) -> None:
    journal, backend = Journal(tmp_path), FakeBackend()
    backend.failures = ["before"] * 10_000
    uploader = Uploader(journal, backend)
    journal.add_metrics(1, {"loss": 1.0})
    assert not uploader.stop(timeout_s=0)
    assert journal.pending
    backend.failures = []
    deliver_all(journal, backend)
    assert backend.rows[0][:3] == ("loss", 1.0, 1)


def test_an_unexpected_error_is_raised(tmp_path: Path) -> None:
    class Broken(FakeBackend):
        def log_metrics(self, rows: Any) -> None:
            raise ZeroDivisionError

    journal = Journal(tmp_path)
    journal.add_metrics(1, {"loss": 1.0})
    with pytest.raises(ZeroDivisionError):
        deliver(journal, Broken(), check_existing=False)
    assert journal.pending


RECORDS = st.recursive(
    st.none() | st.integers() | st.text(max_size=6) | st.sampled_from(["metrics", "image", "status"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "rows", "key", "step", "x"]), inner),
    max_leaves=6,
)
LINES = st.binary(max_size=30) | RECORDS.map(_encode) | st.just(b"%08x %s\n" % (zlib.crc32(b"[" * 9999), b"[" * 9999))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=80)
@given(
    content=st.lists(LINES, max_size=5).map(b"".join),
    offset=st.none() | st.binary(max_size=6) | st.integers().map(lambda n: b"%d" % n),
)
def test_a_journal_opens_with_any_content_of_its_files(
    tmp_path_factory: pytest.TempPathFactory, content: Any, offset: Any
) -> None:
    """Damaged lines are skipped, and nothing that was written after them is lost."""
    folder = tmp_path_factory.mktemp("journal")
    (folder / "journal.jsonl").write_bytes(content)
    if offset is not None:
        (folder / "delivered").write_bytes(offset)
    try:
        journal = Journal(folder)
    except JournalError as error:
        assert "delivered" in str(error)
        return
    journal.append({"kind": "status", "status": "RUNNING"})
    records, end = journal.read_pending(100)
    journal.mark_delivered(end)
    journal.close()
    assert not journal.pending
    assert records[-1] == {"kind": "status", "status": "RUNNING"}
    assert {path.name for path in folder.iterdir()} == {"journal.jsonl", "delivered", "images"}


def test_records_after_a_power_failure_are_sent_though_the_offset_is_beyond_the_journal(tmp_path: Path) -> None:
    (tmp_path / "delivered").write_text("9000")
    journal = Journal(tmp_path)
    journal.add_metrics(1, {"loss": 0.5})
    assert journal.pending
    assert [record["kind"] for record in journal.read_pending(9)[0]] == ["metrics"]
    journal.close()


def test_a_run_has_ended_once_a_last_status_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert not journal.ended
    for status, ended in (("RUNNING", False), ("FINISHED", True), ("RUNNING", False), ("KILLED", True)):
        journal.append({"kind": "status", "status": status})
        journal.add_metrics(1, {"loss": 1.0})  # other records say nothing of it
        assert journal.ended == ended
        journal.close()
        journal = Journal(tmp_path)
        assert journal.ended == ended, "after a restart"
    journal.close()


def test_records_are_read_in_portions_and_stay_pending_until_they_are_marked(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert (journal.pending, journal.read_pending(5)) == (False, ([], 0))
    for step in range(1, 6):
        journal.add_metrics(step, {"loss": float(step)})
    first, offset = journal.read_pending(2)
    assert [record["rows"][0][2] for record in first] == [1, 2]
    assert journal.read_pending(2) == (first, offset), "reading marks nothing"
    journal.mark_delivered(offset)
    journal.close()
    journal = Journal(tmp_path)
    rest, end = journal.read_pending(100)
    assert [record["rows"][0][2] for record in rest] == [3, 4, 5]
    assert end == (tmp_path / "journal.jsonl").stat().st_size
    assert journal.pending
    journal.mark_delivered(end)
    assert not journal.pending
    journal.close()


def test_the_first_value_of_a_name_at_a_step_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add_metrics(1, {"loss": 1.0})
    journal.add_metrics(1, {"loss": 2.0, "ema": 3.0})
    journal.add_metrics(1, {"loss": 4.0})  # nothing new: no record
    records, _ = journal.read_pending(9)
    assert [[row[:3] for row in record["rows"]] for record in records] == [[["loss", 1.0, 1]], [["ema", 3.0, 1]]]
    journal.close()


@pytest.mark.parametrize("content", [b"", b"-1", b"1x", b"x1", b"1\n", b"9" * 19])
def test_an_offset_that_is_no_number_of_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "delivered").write_bytes(content)
    with pytest.raises(JournalError, match="must hold the number of bytes") as caught:
        Journal(tmp_path)
    assert repr(content[:40]) in str(caught.value) and "remove the file" in str(caught.value)


def test_a_line_that_was_cut_off_is_removed_and_the_next_record_is_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add_metrics(1, {"loss": 1.0})
    journal.close()
    file = tmp_path / "journal.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    journal = Journal(tmp_path)
    assert file.read_bytes() == whole
    journal.add_metrics(2, {"loss": 2.0})
    assert [record["rows"][0][2] for record in journal.read_pending(9)[0]] == [1, 2]
    journal.close()
