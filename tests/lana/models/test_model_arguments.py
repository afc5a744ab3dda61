from lana.models.model_arguments import parse_arguments


def test_arguments_hold_lists_and_text():
    assert parse_arguments(" a = [2,2], b={c=1,d: x},url=http://a/x=y,on=, e='f,g' ") == {
        "a": [2, 2],
        "b": {"c": 1, "d": "x"},
        "url": "http://a/x=y",
        "on": None,
        "e": "f,g",
    }
    assert parse_arguments(None) == parse_arguments(" ") == {}
