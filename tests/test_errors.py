from tlkit.errors import near, unknown


def test_near_is_case_blind_and_keeps_the_allowed_spelling():
    assert near("mmd", ["MMD", "CORAL"]) == ["MMD"]
    assert near("zzz", ["MMD", "CORAL"]) == []


def test_unknown_lists_what_is_allowed():
    assert (
        unknown("loss", "COREL", ["MMD", "CORAL"]) == "unknown loss 'COREL': did you mean 'CORAL'? Allowed: CORAL, MMD."
    )
    assert unknown("loss", "x", []) == "unknown loss 'x': Allowed: none."
