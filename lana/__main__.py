"""`python -m lana`"""

from lana.cli import main

main(prog_name="lana")
