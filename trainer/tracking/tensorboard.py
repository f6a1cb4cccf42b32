"""TensorBoard event files of a run: every metric of the schema, and events as text.

Written through TensorBoard's own writer, without TensorFlow or torch. After a resume TensorBoard is told to discard the
points of the steps that are trained again.
"""

import time
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError
from trainer.tracking.config import TensorBoardConfig
from trainer.tracking.headlines import headline
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import StartLine
from trainer.tracking.tracker import RunInfo


class TensorBoardTracker:
    """A tracker that writes event files."""

    def __init__(self, config: TensorBoardConfig) -> None:
        self._config = config
        self._writer: Any = None

    def begin(self, run: RunInfo) -> None:
        """Open a new event file in the folder of the run."""
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ModuleNotFoundError as error:
            remedy = "pip install 'hybrid-trainer[tensorboard]', or take it out of tracking.trackers"
            raise UserError(str(error), remedy=remedy) from None
        folder = run.folder / Path(self._config.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))

    def note(self, line: JournalLine) -> None:
        """Take one line of the journal."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if isinstance(line, StartLine):
            self._add(line.step + 1, session_log=SessionLog(status=SessionLog.START))
        values = [Summary.Value(tag=metric, simple_value=value) for metric, value in line.metrics().items()]
        if text := headline(line):
            values.append(_text(line.kind, text))
        if values:
            self._add(line.step, summary=Summary(value=values))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _add(self, step: int, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, **fields))


def _text(tag: str, text: str) -> Any:
    """A text as TensorBoard's text panel shows it."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode("utf-8", "replace")], tensor_shape=shape)
    return Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
