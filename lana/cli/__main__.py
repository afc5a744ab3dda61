"""`python -m lana.cli`"""

from lana.cli import main

main(prog_name="lana")
