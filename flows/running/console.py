"""The console of the command line: nothing it prints steers the terminal or shows a secret.

Names of candidates, texts of data and messages of libraries come from elsewhere: an escape sequence
in them could set the terminal's title or clipboard, or hide other lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lensllm.core.secrets import mask

if TYPE_CHECKING:
    from flows.server.prefect_server import Server

# C0 and C1 but for tab and newline, and the marks that turn the direction of text.
_UNSEEN = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")
_UNSEEN |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "�")


class SafeConsole(Console):
    """A console that shows control characters of what it prints as ``�`` and masks secrets."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=mask(segment.text).translate(_UNSEEN))


def page_address(server: Server, console: Console) -> str:
    """The address of the server's page: on a terminal a link that lets one browser in.

    Output that goes to a file may be read by others, so it gets the plain address.
    """
    if console.is_terminal or not server.secret:
        return server.entry_link()
    return f"{server.page} (lensllm ui opens it)"
