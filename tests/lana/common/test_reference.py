import pytest

from lana.common.reference import split_reference


@pytest.mark.parametrize(
    ("reference", "kind", "name"),
    [
        ("net.py:small", "net.py", "small"),
        ("/a:b/net.py:small", "/a:b/net.py", "small"),
        ("C:\\nets\\net.py:small", "C:\\nets\\net.py", "small"),
        ("/a:b/net.py", "/a:b/net.py", ""),
        ("folder:/a:b/c", "folder", "/a:b/c"),
        ("npz:/a.py:b/c.npz", "npz", "/a.py:b/c.npz"),
        ("timm:hf-hub:user/name@v2", "timm", "hf-hub:user/name@v2"),
        ("digits", "digits", ""),
    ],
)
def test_a_colon_in_a_folders_name_is_no_separator(reference, kind, name):
    assert split_reference(reference) == (kind, name)
