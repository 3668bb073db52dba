"""Write the illustrated page of a run through a relay."""

from __future__ import annotations

from typing import Optional

from offset_common.command_line import printable
from offset_common.files import AnyPath, write_new_file
from offset_common.illustrate.page import render
from offset_common.illustrate.recorder import Recorder
from offset_common.illustrate.recording import encode_recording
from offset_common.illustrate.story import tell
from offset_common.tickets import RelayTicket
from offset_common.tools.terminal import print_line


def illustrate(ticket: RelayTicket, page: AnyPath, timeout: float, record: Optional[AnyPath] = None) -> None:
    """Use a relay as two nodes do, and write a page that explains every byte.

    Args:
        ticket: the relay's ticket.
        page: the HTML file to create.
        timeout: seconds for each step.
        record: a JSON file to create for the recording, from which the page can be recreated; or None.

    Raises:
        OperatorError: the relay does not work, or a file cannot be written.
    """
    recording = Recorder(ticket, timeout).run()
    story = tell(recording)
    write_new_file(page, render(story), private=False)
    if record is not None:
        write_new_file(record, encode_recording(recording), private=False)
    name, count = printable(str(page)), len(story.frames)
    print_line(f"{name}: every byte of a run with {count} frames; its keys were used only for this run")
