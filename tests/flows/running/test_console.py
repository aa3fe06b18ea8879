"""What is printed cannot steer the terminal."""

import io

from rich.table import Table
from rich.text import Text

from flows.running.console import SafeConsole


def shown(*what: object) -> str:
    stream = io.StringIO()
    SafeConsole(file=stream, width=80, force_terminal=True, color_system="truecolor").print(*what)
    return stream.getvalue()


def test_control_characters_of_texts_are_shown_and_styles_still_work() -> None:
    hostile = "a\x1b]0;title\x07b\x9b31mc\u202ed\re"
    table = Table()
    table.add_column("name")
    table.add_row(Text(hostile, style="bold"))
    for said in (shown(hostile), shown(Text(hostile)), shown(table)):
        assert "\x1b]" not in said
        assert not {"\x07", "\x9b", "\u202e", "\r"} & {*said}
    assert "\x1b[1m" in shown(table)
    assert shown("tab\tand\nline").split() == ["tab", "and", "line"]


def test_secrets_are_masked() -> None:
    said = shown("at http://me:pass@host")
    assert "http://***@host" in said
    assert "pass" not in said
