"""References to networks, data and tasks: a kind and a name, or a Python file and what it holds."""

KINDS = ("timm", "torchvision", "folder", "parquet", "npz", "hf")

LOCAL, HUB = "local-dir:", ("hf-hub:", "hf_hub:")  # timm's: a folder that it saved; USER/NAME


def split_reference(reference: str) -> tuple[str, str]:
    """The kind, or the Python file, and the name behind it; colons in folders' names are no separators.

    >>> split_reference("timm:hf-hub:timm/resnet18.a1_in1k"), split_reference("a:b/net.py:small")
    (('timm', 'hf-hub:timm/resnet18.a1_in1k'), ('a:b/net.py', 'small'))
    """
    kind, _, place = reference.partition(":")
    if kind in KINDS:
        return kind, place
    if reference.endswith(".py"):
        return reference, ""
    file, _, name = reference.rpartition(":")
    return (file, name) if file.endswith(".py") else (kind, place)
