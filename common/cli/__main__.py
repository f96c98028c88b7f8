"""``python -m common.cli``: the ``lightning`` command."""

from common.cli.main import main

main()
