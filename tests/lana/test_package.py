import pkgutil

import lana


def test_no_module_is_named_like_what_the_package_offers():
    """`import lana.NAME` would put the module in place of the function."""
    modules = {module.name for module in pkgutil.iter_modules(lana.__path__)}
    assert not modules & set(lana.__all__)
