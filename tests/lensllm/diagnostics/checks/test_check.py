from lensllm.diagnostics.checks.check import by_candidate, check


@check("LENS199", "Long", tip="cut it", passed="All are short", not_applicable="there is none")
def long(details):
    return by_candidate("Too long", details) if details is not None else None


def test_few_candidates_have_a_finding_each():
    found = long.find({"a": "3 m", "b": "4 m"})

    assert [f.candidate for f in found] == ["a", "b"]
    assert found[0].message == "Too long: a (3 m); cut it."


def test_many_candidates_share_one():
    found = long.find(dict.fromkeys("abcd", "3 m"))

    assert [f.candidate for f in found] == [""]
    assert found[0].message == "Too long: 4 candidates, a (3 m), b (3 m), c (3 m), d (3 m); cut it."


def test_none_is_none():
    assert long.find({}) == []


def test_passed_is_told_from_not_applicable():
    outcomes = [long.outcome(details) for details in ({"a": "3 m"}, {}, None)]

    assert outcomes == ["issue", "passed", "not applicable"]


def test_a_curve_that_does_not_fall_has_no_phases(clean):
    fits = clean.fits.assign(B=[0.0, *clean.fits["B"][1:]])
    flat = type(clean)(**{**vars(clean), "fits": fits})

    assert list("bcdef") == [fit["candidate"] for fit in flat.fits_of("rectified")]
    assert list("abcdef") == [fit["candidate"] for fit in clean.fits_of("rectified")]
