"""What the checks found, cut to be read."""

from dataclasses import replace

import pandas as pd

from lensllm.report.findings import findings


def _found(data, *messages, code="LENS101"):
    rows = [
        {"code": code, "title": "A title", "candidate": "", "message": text} for text in messages
    ]
    return findings(replace(data, findings=pd.DataFrame(rows, columns=data.findings.columns)))


def test_findings_of_one_check_stand_together(data):
    """Its title is said once."""
    (finding,) = _found(data, "a is bad; mend it.", "b is bad; mend it.")
    assert (finding.code, finding.title) == ("LENS101", "A title")
    assert [m.before for m in finding.messages] == ["a is bad; mend it.", "b is bad; mend it."]


def test_a_long_list_of_names_is_folded_and_nothing_is_lost(data):
    """Claim, number and advice stay in sight."""
    names = [f"owner/model-{i} (0 of 4, D* 1,234)" for i in range(20)]
    text = f"Too few sizes: 20 candidates, {', '.join(names)}; raise the budget, or not."
    ((message,),) = [finding.messages for finding in _found(data, text)]
    assert message.before == "Too few sizes: 20 candidates"
    assert message.after == "raise the budget, or not."
    assert text == f"{message.before}, {message.folded}; {message.after}"


def test_a_long_message_of_another_form_is_shown_whole(data):
    """Only what reads as a list of names is cut."""
    text = "word " * 100
    ((message,),) = [finding.messages for finding in _found(data, text)]
    assert (message.before, message.folded) == (text, "")


def test_no_findings(data):
    """All checks passed."""
    assert _found(data) == []
