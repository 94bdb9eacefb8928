"""The TensorBoard tracker: an event file in `<run>/tensorboard`, written without TensorFlow and without torch.

A row is one record with one scalar a metric. Records are framed by the package's own `RecordWriter` and handed to the
system in one write, in the calling thread: a disk that fills up is an error of that row and of no other, and a part of
a row that got through is cut off before the next one. (The package's `EventFileWriter` writes from a thread that hands
an error to a later caller.)

A process begins a file of its own, which TensorBoard reads after the earlier ones. A row that goes back behind rows
that stand already (a run that was resumed from a checkpoint before them) is preceded by a purge mark, so that each
step is shown once.

TensorBoard keeps float32: 24 bits of a value. Rows carry no time; the wall time is that of writing.

Not here: hyperparameter and graph tabs; the config is a text.
"""

import io
import json
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ampguard.tracking._base import Row, Tracker
from ampguard.tracking._extra import import_extra

PATTERN: Final = "events.out.tfevents.*"
"""Names that TensorBoard takes for event files; it reads them in the order of their names."""


class TensorboardTracker(Tracker):
    """Writes an event file under `run_dir`."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        import_extra("tensorboard")
        # The parts that need neither TensorFlow nor numpy.
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events, self._summaries, self._tensors = event_pb2, summary_pb2, tensor_pb2
        self._shapes, self._types, self._record_writer = tensor_shape_pb2, types_pb2, RecordWriter
        self._folder = run_dir / "tensorboard"
        self._path = self._folder
        self._size = 0
        self._held = 0
        self._fresh = True
        self._described = False

    def start(self, facts: Mapping[str, Any], previous: Mapping[str, str]) -> Mapping[str, str]:
        """Begin an event file, after those that stand already, and describe the run in it.

        Raises:
            OSError: The folder cannot be read or written.
        """
        if not self._size:
            self._begin()
        if not previous and not self._described:
            self._append(self._text("run/config", _table(facts), step=0))
        self._described = True
        return {"path": str(self._folder)}

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(self._folder.glob(PATTERN))
        self._held = max((step for path in earlier for step in self._row_steps(path)), default=0)
        self._path = self._folder / f"events.out.tfevents.{_ordinal(earlier):010d}.ampguard"
        self._path.open("xb").close()
        self._append(self._events.Event(file_version="brain.Event:2"))

    def held(self) -> int:
        """Return the last step whose row stands in an event file; 0: none does."""
        return self._held

    def _log(self, row: Row) -> None:
        step = int(row["step"])
        if step < self._held or (self._fresh and step == self._held):
            mark = self._events.SessionLog(status=self._events.SessionLog.START)
            self._append(self._events.Event(step=step, session_log=mark))
        values = [
            self._summaries.Summary.Value(tag=key, simple_value=value) for key, value in row.items() if key != "step"
        ]
        self._append(self._events.Event(step=step, summary=self._summaries.Summary(value=values)))
        self._held, self._fresh = step, False

    def event(self, row: Mapping[str, Any]) -> None:
        """Write one event: 1 as the scalar `event/<kind>` at its step, and its message as the text `message/<kind>`."""
        value = self._summaries.Summary.Value(tag=f"event/{row['event']}", simple_value=1)
        text = self._text(f"message/{row['event']}", str(row.get("message", "")), step=row["step"])
        text.summary.value.append(value)
        self._append(text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary as the text `run/summary`.

        Args:
            summary: The record of the run, plain JSON values.
        """
        self._append(self._text("run/summary", _table(summary), step=self._held))

    def _text(self, tag: str, text: str, *, step: int) -> Any:
        """Return an event that the text tab shows as Markdown."""
        plugin = self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        shape = self._shapes.TensorShapeProto(dim=[self._shapes.TensorShapeProto.Dim(size=1)])
        value = self._summaries.Summary.Value(
            tag=tag,
            metadata=self._summaries.SummaryMetadata(plugin_data=plugin),
            tensor=self._tensors.TensorProto(
                dtype=self._types.DT_STRING, string_val=[text.encode()], tensor_shape=shape
            ),
        )
        return self._events.Event(step=step, summary=self._summaries.Summary(value=[value]))

    def _append(self, event: Any) -> None:
        """Write one record behind the last whole one, wholly, or raise."""
        event.wall_time = time.time()
        record = io.BytesIO()
        self._record_writer(record).write(event.SerializeToString())
        # Opened anew each time, so that a folder that is gone is an error and not a void that rows fall into.
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._size)
            file.truncate()
            if file.write(record.getvalue()) != len(record.getvalue()):
                raise OSError(f"only a part of a row fitted into {self._path.name}")
        self._size += len(record.getvalue())

    def _row_steps(self, path: Path) -> Iterator[int]:
        """Yield the steps of the rows in an event file, up to its end or to a torn record."""
        for record in _records(path):
            event = self._events.Event.FromString(record)
            if any(
                value.HasField("simple_value") and not value.tag.startswith("event/") for value in event.summary.value
            ):
                yield event.step


def _records(path: Path) -> Iterator[bytes]:
    """Yield the whole records of a file: a length (8 bytes), its checksum (4), the record, its checksum (4)."""
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            record = file.read(length)
            if len(file.read(4)) != 4:
                return
            yield record


def _ordinal(earlier: list[Path]) -> int:
    """Return the number in the next file's name: the time in seconds, but past that of every earlier file."""
    numbers = [path.name.split(".")[3] for path in earlier]
    return max([int(time.time()), *(int(number) + 1 for number in numbers if number.isdecimal())])


def _table(facts: Mapping[str, Any]) -> str:
    """Return `facts` as indented JSON in a Markdown code block."""
    return f"```json\n{json.dumps(facts, indent=2, ensure_ascii=False, default=str)}\n```"
