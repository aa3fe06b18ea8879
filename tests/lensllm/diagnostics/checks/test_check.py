from lensllm.diagnostics.checks.check import findings


def test_few_candidates_have_a_finding_each():
    found = findings("LENS199", "Too long", {"a": "3 m", "b": "4 m"}, "cut it")

    assert [f.candidate for f in found] == ["a", "b"]
    assert found[0].message == "Too long: a (3 m); cut it."


def test_many_candidates_share_one():
    found = findings("LENS199", "Too long", dict.fromkeys("abcd", "3 m"), "cut it")

    assert [f.candidate for f in found] == [""]
    assert found[0].message == "Too long: 4 candidates, a (3 m), b (3 m), c (3 m), d (3 m); cut it."


def test_none_is_none():
    assert findings("LENS199", "Too long", {}, "cut it") == []


def test_a_curve_that_does_not_fall_has_no_phases(clean):
    fits = clean.fits.assign(B=[0.0, *clean.fits["B"][1:]])
    flat = type(clean)(**{**vars(clean), "fits": fits})

    assert list("bcdef") == [fit["candidate"] for fit in flat.fits_of("rectified")]
    assert list("abcdef") == [fit["candidate"] for fit in clean.fits_of("rectified")]
