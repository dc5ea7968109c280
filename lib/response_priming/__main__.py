"""`python -m response_priming`: the command line, as `accelerate launch -m` needs it."""

from response_priming.cli import main

main()
