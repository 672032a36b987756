"""`python -m multiraft` is the `multiraft` command."""

from multiraft.cli.main import main

main()
